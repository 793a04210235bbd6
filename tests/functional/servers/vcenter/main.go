// Command vcenter plays a vCenter Server: govmomi's simulator behind logins, with datastores that
// fill up, files over /folder, tasks that take their time, and faults on request.
//
// Its only argument is a JSON file, see config.
package main

import (
	"crypto/tls"
	"encoding/json"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
)

type listening struct {
	Address, Certificate, Key string // without a certificate plain http
	Optional                  bool
}

type config struct {
	Directory      string // files of the datastores, and what is known of them
	Log            string // of requests
	Wsdl           string // directory served below /sdk
	Control        string // address
	User, Password string
	Datastores     []string
	Capacity       int64
	Listen         []listening
}

// server is all that the handlers share.
type server struct {
	config
	rules
	settings
	tickets
	files
	service *simulator.Service
	cancels sync.Map // of tasks that wait before they begin, by their ids
	stores  []*store
	log     *os.File
}

func read(name string) (*server, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	s := &server{}
	if err = json.Unmarshal(text, &s.config); err != nil {
		return nil, err
	}
	s.rules.release()
	s.settings.reset()
	s.log, err = os.OpenFile(s.config.Log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	return s, err
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/sdk", s.api)
	mux.HandleFunc("/sdk/vimServiceVersions.xml", s.service.ServiceVersions)
	mux.HandleFunc("/sdk/", func(w http.ResponseWriter, r *http.Request) {
		name := filepath.Base(r.URL.Path)
		if s.Wsdl == "" || !(strings.HasSuffix(name, ".wsdl") || strings.HasSuffix(name, ".xsd")) {
			http.NotFound(w, r)
			return
		}
		http.ServeFile(w, r, filepath.Join(s.Wsdl, name))
	})
	mux.HandleFunc("/folder", s.folder)
	mux.HandleFunc("/folder/", s.folder)
	return mux
}

func (s *server) listen(where listening) (net.Listener, error) {
	listener, err := net.Listen("tcp", where.Address)
	if err != nil || where.Certificate == "" {
		return listener, err
	}
	pair, err := tls.LoadX509KeyPair(where.Certificate, where.Key)
	return tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"http/1.1"},
	}), err
}

func main() {
	log.SetFlags(log.Lmicroseconds)
	s, err := read(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if err = s.build(); err != nil {
		log.Fatal(err)
	}
	s.service.Listen = &url.URL{User: url.UserPassword(s.User, s.Password)} // who may log in
	handler := s.handler()
	for _, where := range s.Listen {
		listener, err := s.listen(where)
		if err != nil && where.Optional {
			continue
		} else if err != nil {
			log.Fatal(err)
		}
		go func() { log.Fatal(http.Serve(listener, handler)) }()
	}
	log.Fatal(http.ListenAndServe(s.Control, http.HandlerFunc(s.control)))
}
