package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// datacenters are inventory paths, in the order in which the model makes them.
var datacenters = []string{"DC0", "F0/DC1"}

// limits of a datastore: what is reserved is taken by others.
type limits struct{ Capacity, Reserved int64 }

// store is a datastore and the directory with its files.
type store struct {
	*simulator.Datastore
	limits
	datacenter string // its inventory path
	root       string
	used       int64
	mu         sync.Mutex // guards limits and used
}

// build makes the inventory; files and limits of an earlier run are found again.
func (s *server) build() error {
	model := simulator.VPX()
	model.Datacenter, model.Folder = len(datacenters), 1
	model.Host, model.ClusterHost, model.Machine, model.Datastore = 0, 1, 0, 0
	if err := model.Create(); err != nil {
		return err
	}
	s.service = model.Service
	client, err := vim25.NewClient(context.Background(), s.service)
	if err != nil {
		return err
	}
	for number, datacenter := range datacenters {
		for index, name := range s.Datastores {
			root := filepath.Join(s.Directory, fmt.Sprintf("datacenter-%d-%d", number, index))
			if err := s.add(client, datacenter, name, root); err != nil {
				return err
			}
		}
	}
	if text, err := os.ReadFile(s.state()); err == nil {
		known := map[string]limits{}
		if err := json.Unmarshal(text, &known); err != nil {
			return err
		}
		for _, d := range s.stores {
			if to, ok := known[d.root]; ok {
				d.limit(to)
			}
		}
	}
	simulator.Map.Put(newManager(s, *model.ServiceContent.FileManager))
	simulator.Map.Put(newCollector(model.ServiceContent.PropertyCollector))
	s.service.RegisterSDK(simulator.Map)
	return nil
}

// add mounts a directory as a datastore on the host of a datacenter.
func (s *server) add(client *vim25.Client, datacenter, name, root string) error {
	ctx := context.Background()
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	place := "/" + datacenter
	found, err := object.NewSearchIndex(client).FindByInventoryPath(ctx, place)
	if err != nil || found == nil {
		return fmt.Errorf("%s: not found (%v)", place, err)
	}
	for _, entity := range simulator.Map.All("HostSystem") {
		host := object.NewHostSystem(client, entity.Reference())
		if above(entity, "Datacenter") != found.Reference() {
			continue
		}
		system, err := host.ConfigManager().DatastoreSystem(ctx)
		if err != nil {
			return err
		}
		made, err := system.CreateLocalDatastore(ctx, name, root)
		if err != nil {
			return err
		}
		d := &store{datacenter: datacenter, root: root}
		d.Datastore = simulator.Map.Get(made.Reference()).(*simulator.Datastore)
		d.used = size(root)
		d.limit(limits{Capacity: s.Capacity})
		simulator.Map.Put(newBrowser(s, d))
		s.stores = append(s.stores, d)
	}
	return nil
}

// find returns a datastore by the reference of its datacenter and its name.
func (s *server) find(datacenter types.ManagedObjectReference, name string) *store {
	for _, d := range s.stores {
		if d.Name == name && above(d.Datastore, "Datacenter") == datacenter {
			return d
		}
	}
	return nil
}

// at returns a datastore by the inventory path of its datacenter and its name.
func (s *server) at(datacenter, name string) *store {
	for _, d := range s.stores {
		if d.datacenter == datacenter && d.Name == name {
			return d
		}
	}
	return nil
}

func (s *server) state() string { return filepath.Join(s.Directory, "limits.json") }

// save lets limits outlive this process.
func (s *server) save() error {
	known := map[string]limits{}
	for _, d := range s.stores {
		known[d.root] = d.limits
	}
	text, err := json.Marshal(known)
	if err != nil {
		return err
	}
	return os.WriteFile(s.state(), text, 0o600)
}

func (d *store) limit(to limits) {
	d.mu.Lock()
	d.limits = to
	d.mu.Unlock()
	d.publish()
}

// count sees to files that came and went behind our back.
func (s *server) count() {
	s.disk.Lock()
	defer s.disk.Unlock()
	for _, d := range s.stores {
		d.mu.Lock()
		d.used = size(d.root)
		d.mu.Unlock()
		d.publish()
	}
}

// take claims n bytes where so many are free, and tells whether they were.
func (d *store) take(n int64) bool {
	d.mu.Lock()
	fits := n <= 0 || d.used+n <= d.Capacity-d.Reserved
	if fits {
		d.used += n
	}
	d.mu.Unlock()
	d.publish()
	return fits
}

func (d *store) free() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if left := d.Capacity - d.Reserved - d.used; left > 0 {
		return left
	}
	return 0
}

// publish lets the API see how much is free.
func (d *store) publish() {
	free := d.free()
	d.mu.Lock()
	capacity := d.Capacity
	d.mu.Unlock()
	simulator.Map.WithLock(d.Datastore, func() {
		d.Summary.Capacity, d.Summary.FreeSpace = capacity, free
		info := d.Info.GetDatastoreInfo()
		info.FreeSpace, info.MaxFileSize = free, free
	})
}

// size returns the bytes of a file, or of all below a directory.
func size(name string) (sum int64) {
	filepath.WalkDir(name, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			if info, err := entry.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}
