package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"
)

// rule says what goes wrong with requests, or with tasks, of one kind.
//
// On is a method of the API, a method of HTTP for files, or "sdk" or "folder" for all of either.
type rule struct {
	Kind     string // status, fault, cut, stall, slow, lose; task
	On       string
	Nth      int   // the first one that it is for
	Times    int   // and how many from there on; below zero all
	After    int64 // bytes of a file that come through before; below zero: none, nor is the body read;
	// of an answer of the API that is lost
	Status   int
	Location string
	Fault    string // a type of the API
	Seconds  float64
	Done     bool // a task fails, but does its work before
}

type rules struct {
	mu    sync.Mutex
	list  []*rule
	going chan struct{} // closed when what stands still may go on
	still int           // how many requests do
}

func (r *rules) add(one rule) {
	r.mu.Lock()
	r.list = append(r.list, &one)
	r.mu.Unlock()
}

// take returns the rule for a request, or a task, and counts it.
func (r *rules) take(group, operation string) *rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.list {
		if one.Times == 0 || (one.Kind == "task") != (group == "task") {
			continue
		}
		if one.On != operation && one.On != group {
			continue
		}
		if one.Nth > 1 {
			one.Nth--
			continue
		}
		one.Times--
		taken := *one
		return &taken
	}
	return nil
}

func (r *rules) clear() {
	r.mu.Lock()
	r.list = nil
	r.mu.Unlock()
	r.release()
}

// release lets all go on that stands still.
func (r *rules) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.going != nil {
		close(r.going)
	}
	r.going = make(chan struct{})
}

func (r *rules) gate() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.going
}

// wait takes so many seconds, unless it is released before, and tells whether it was stopped.
func (r *rules) wait(seconds float64, stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	case <-r.gate():
	case <-time.After(time.Duration(seconds * float64(time.Second))):
	}
	return false
}

// stand waits until it is released, or the client has gone.
func (r *rules) stand(ctx context.Context) {
	r.count(1)
	defer r.count(-1)
	select {
	case <-r.gate():
	case <-ctx.Done():
	}
}

func (r *rules) count(more int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.still += more
	return r.still
}

// apply does what a rule says before anything else, and tells whether that was all.
func (s *server) apply(told *rule, w http.ResponseWriter, r *http.Request) bool {
	if told == nil {
		return false
	}
	switch told.Kind {
	case "slow":
		s.rules.wait(told.Seconds, nil)
	case "stall":
		if told.After <= 0 || !moves(r) {
			s.rules.stand(r.Context())
		}
	case "cut":
		if !moves(r) {
			panic(http.ErrAbortHandler)
		}
	case "fault":
		raise(w, told.Fault, "")
		return true
	case "status":
		if told.After > 0 && moves(r) {
			return false
		}
		if told.After == 0 {
			drain(r)
		}
		told.answer(w)
		return true
	}
	return false
}

// moves tells whether a request carries a file, or asks for one.
func moves(r *http.Request) bool {
	carries := r.Method == http.MethodPut || r.Method == http.MethodGet
	return carries && strings.HasPrefix(r.URL.Path, "/folder")
}

// limit returns how much of a file comes through; below zero: all.
func (told *rule) limit() int64 {
	if told != nil && (told.Kind == "cut" || told.After > 0) {
		return told.After
	}
	return -1
}

func (told *rule) answer(w http.ResponseWriter) {
	if told.Location != "" {
		w.Header().Set("Location", told.Location)
	}
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(told.Status)
	w.Write([]byte("<html><body>This is no data of an image.</body></html>"))
}

// begin sends the head of an answer and some of its bytes, where a rule says that.
func (told *rule) begin(w http.ResponseWriter, answer *httptest.ResponseRecorder) {
	if told.After <= 0 {
		return
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	whole := answer.Body.Bytes()
	w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
	w.WriteHeader(answer.Code)
	if told.After < int64(len(whole)) {
		whole = whole[:told.After]
	}
	w.Write(whole)
	w.(http.Flusher).Flush()
}

// settings are how the server behaves towards everyone.
type settings struct {
	known sync.Mutex
	values
}

type values struct {
	Conflict  bool    // 409 for a PUT to a file that exists
	Parents   bool    // PUT makes missing directories, as vCenter does
	Impatient bool    // what is refused is refused before its body was read
	Idle      float64 // seconds after which an unused session ends; 0: never
}

func (s *settings) reset() { s.set(values{Parents: true}) }

func (s *settings) set(to values) {
	s.known.Lock()
	s.values = to
	s.known.Unlock()
}

func (s *settings) get() values {
	s.known.Lock()
	defer s.known.Unlock()
	return s.values
}
