package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/simulator"
)

const block = 256 << 10

var errFull = errors.New("the datastore is full")

// folder answers /folder/PATH?dcPath=&dsName=.
func (s *server) folder(w http.ResponseWriter, r *http.Request) {
	out := s.reply(w, r, "", "")
	defer out.end()
	s.sweep()
	told := s.rules.take("folder", r.Method)
	if s.apply(told, out, r) {
		return
	}
	if told != nil && told.Kind == "lose" {
		s.serve(httptest.NewRecorder(), r, nil)
		panic(http.ErrAbortHandler)
	}
	s.serve(out, r, told)
}

func (s *server) serve(w http.ResponseWriter, r *http.Request, told *rule) {
	if !s.allowed(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		s.refuse(w, r, http.StatusUnauthorized)
		return
	}
	query := r.URL.Query()
	d := s.at(strings.Trim(query.Get("dcPath"), "/"), query.Get("dsName"))
	if d == nil {
		s.refuse(w, r, http.StatusNotFound)
		return
	}
	if !accessible(d) {
		s.refuse(w, r, http.StatusInternalServerError)
		return
	}
	inside := path.Clean("/" + strings.TrimPrefix(r.URL.Path, "/folder"))
	name := filepath.Join(d.root, inside)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		s.get(w, r, name, told)
	case http.MethodPut:
		s.put(w, r, d, name, told)
	case http.MethodDelete:
		s.delete(w, r, d, name)
	default:
		s.refuse(w, r, http.StatusMethodNotAllowed)
	}
}

func accessible(d *store) (yes bool) {
	simulator.Map.WithLock(d.Datastore, func() { yes = d.Summary.Accessible })
	return yes
}

// allowed tells who may see files: a session, a ticket, or name and password.
func (s *server) allowed(r *http.Request) bool {
	if user, password, ok := r.BasicAuth(); ok {
		return user == s.User && password == s.Password
	}
	return s.tickets.redeem(r) || s.authenticated(r)
}

// refuse answers with a page for people.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, status int) {
	if !s.settings.get().Impatient {
		drain(r)
	}
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<html><body>%d %s</body></html>", status, http.StatusText(status))
}

func drain(r *http.Request) { io.Copy(io.Discard, r.Body) }

func (s *server) get(w http.ResponseWriter, r *http.Request, name string, told *rule) {
	opened, err := os.Open(name)
	if err != nil {
		s.refuse(w, r, http.StatusNotFound)
		return
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		s.refuse(w, r, http.StatusInternalServerError)
		return
	}
	if info.IsDir() { // a page, and no error
		entries, _ := opened.ReadDir(-1)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		for _, entry := range entries {
			fmt.Fprintf(w, "<p>%s</p>\n", html.EscapeString(entry.Name()))
		}
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if limit := told.limit(); limit >= 0 && r.Method == http.MethodGet {
		w = &limited{w, s, r, told, limit}
	}
	http.ServeContent(w, r, "", info.ModTime(), opened)
}

// limited lets so many bytes of an answer through, then does what its rule says.
type limited struct {
	http.ResponseWriter
	server *server
	asked  *http.Request
	rule   *rule
	left   int64
}

func (w *limited) Write(data []byte) (int, error) {
	if w.left < 0 || int64(len(data)) <= w.left {
		w.left -= int64(len(data))
		return w.ResponseWriter.Write(data)
	}
	first, err := w.ResponseWriter.Write(data[:w.left])
	if err != nil {
		return first, err
	}
	w.ResponseWriter.(http.Flusher).Flush()
	if w.rule.Kind == "cut" {
		panic(http.ErrAbortHandler)
	}
	w.server.rules.stand(w.asked.Context())
	w.left = -1
	rest, err := w.ResponseWriter.Write(data[first:])
	return first + rest, err
}

func (s *server) put(w http.ResponseWriter, r *http.Request, d *store, name string, told *rule) {
	now := s.settings.get()
	info, err := os.Stat(name)
	exists := err == nil
	switch {
	case exists && info.IsDir():
		s.refuse(w, r, http.StatusMethodNotAllowed)
		return
	case exists && now.Conflict:
		s.refuse(w, r, http.StatusConflict)
		return
	case !s.files.lock(name):
		s.refuse(w, r, http.StatusInternalServerError)
		return
	}
	defer s.files.unlock(name)
	written, err := s.create(d, name, now.Parents)
	if err != nil {
		s.refuse(w, r, http.StatusNotFound)
		return
	}
	defer written.Close()
	switch err := s.copy(written, r, d, told); {
	case err == errFull:
		s.refuse(w, r, http.StatusInsufficientStorage)
	case err == errTold:
		told.answer(w)
	case err != nil: // what came so far stays
		panic(http.ErrAbortHandler)
	case exists:
		w.WriteHeader(http.StatusOK)
	default:
		w.WriteHeader(http.StatusCreated)
	}
}

// create empties a file, or makes it.
func (s *server) create(d *store, name string, parents bool) (*os.File, error) {
	s.disk.RLock()
	defer s.disk.RUnlock()
	if parents {
		os.MkdirAll(filepath.Dir(name), 0o700)
	}
	before := size(name)
	made, err := os.Create(name)
	if err == nil {
		d.take(-before)
	}
	return made, err
}

var errTold = errors.New("as it was told")

// copy writes a request's body as far as the datastore has room for it and its rule lets it.
func (s *server) copy(to *os.File, r *http.Request, d *store, told *rule) error {
	data := make([]byte, block)
	left := told.limit()
	for {
		if left == 0 {
			switch told.Kind {
			case "cut":
				return io.ErrUnexpectedEOF
			case "status":
				return errTold
			}
			s.rules.stand(r.Context())
			left = -1
		}
		limit := int64(len(data))
		if left > 0 && left < limit {
			limit = left
		}
		n, err := r.Body.Read(data[:limit])
		if full := s.write(to, data[:n], d); full != nil {
			return full
		}
		if left > 0 {
			left -= int64(n)
		}
		if err == io.EOF && left == 0 && told.Kind == "status" {
			return errTold
		} else if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (s *server) write(to *os.File, data []byte, d *store) error {
	s.disk.RLock()
	defer s.disk.RUnlock()
	fits := d.take(int64(len(data)))
	if !fits {
		data = data[:min(int64(len(data)), d.free())]
		d.take(int64(len(data)))
	}
	if _, err := to.Write(data); err != nil {
		return err
	}
	if !fits {
		return errFull
	}
	return nil
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

func (s *server) delete(w http.ResponseWriter, r *http.Request, d *store, name string) {
	s.files.mu.Lock()
	defer s.files.mu.Unlock()
	info, err := os.Stat(name)
	switch {
	case err != nil:
		s.refuse(w, r, http.StatusNotFound)
	case info.IsDir():
		s.refuse(w, r, http.StatusMethodNotAllowed)
	case s.writing[name]:
		s.refuse(w, r, http.StatusInternalServerError)
	default:
		s.disk.RLock()
		os.Remove(name)
		d.take(-info.Size())
		s.disk.RUnlock()
		w.WriteHeader(http.StatusNoContent)
	}
}
