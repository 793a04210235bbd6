package main

import (
	"encoding/json"
	"net/http"

	"github.com/vmware/govmomi/simulator"
)

// wish is what a test wants of a datastore; what is absent stays.
type wish struct {
	Datacenter, Name string
	Capacity, Free   *int64
	Accessible       *bool
	Maintenance      *string
}

// control does what the path says, with the JSON of the body; only tests know its port.
func (s *server) control(w http.ResponseWriter, r *http.Request) {
	var err error
	body := json.NewDecoder(r.Body)
	switch r.URL.Path {
	case "/rule":
		var one rule
		if err = body.Decode(&one); err == nil {
			s.rules.add(one)
		}
	case "/release":
		s.rules.release()
	case "/still":
		err = json.NewEncoder(w).Encode(s.rules.count(0))
	case "/settings":
		now := s.settings.get()
		if err = body.Decode(&now); err == nil {
			s.settings.set(now)
		}
	case "/datastore":
		var wanted wish
		if err = body.Decode(&wanted); err == nil {
			err = s.tell(wanted)
		}
	case "/count":
		s.count()
	case "/sessions":
		s.sweep()
		err = json.NewEncoder(w).Encode(sessions())
	case "/expire":
		for _, one := range sessions() {
			end(one.Key)
		}
	case "/heal":
		err = s.heal()
	default:
		http.NotFound(w, r)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

// tell changes a datastore.
func (s *server) tell(wanted wish) error {
	d := s.at(wanted.Datacenter, wanted.Name)
	if d == nil {
		return http.ErrNoLocation
	}
	s.count()
	to := d.limits
	if wanted.Capacity != nil {
		to.Capacity = *wanted.Capacity
	}
	if wanted.Free != nil {
		d.mu.Lock()
		taken := d.used + *wanted.Free
		d.mu.Unlock()
		if to.Capacity < taken {
			to.Capacity = taken
		}
		to.Reserved = to.Capacity - taken
	}
	d.limit(to)
	simulator.Map.WithLock(d.Datastore, func() {
		if wanted.Accessible != nil {
			d.Summary.Accessible = *wanted.Accessible
		}
		if wanted.Maintenance != nil {
			d.Summary.MaintenanceMode = *wanted.Maintenance
		}
	})
	return s.save()
}

// heal undoes what tests told; files and sessions stay.
func (s *server) heal() error {
	s.rules.clear()
	s.settings.reset()
	yes, normal := true, "normal"
	for _, d := range s.stores {
		d.limit(limits{Capacity: s.Capacity})
		about := wish{Datacenter: d.datacenter, Name: d.Name, Accessible: &yes, Maintenance: &normal}
		if err := s.tell(about); err != nil {
			return err
		}
	}
	return nil
}
