package main

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net"
	"net/http"
	"strings"
)

// logged is one request; what is true of its password holds for all of it but a file's data.
type logged struct {
	Method    string            `json:"method"`
	Path      string            `json:"path"`
	Query     string            `json:"query"`
	Operation string            `json:"operation"` // of the API
	Status    int               `json:"status"`    // 0: there was no answer
	Scheme    string            `json:"scheme"`
	Host      string            `json:"host"` // the address that it came to
	Port      string            `json:"port"`
	Password  bool              `json:"password"` // whether the password was in it
	Headers   map[string]string `json:"headers"`
}

// reply writes the request to the log right before its answer goes out.
type reply struct {
	http.ResponseWriter
	server *server
	entry  logged
	begun  bool
}

func (s *server) reply(w http.ResponseWriter, r *http.Request, operation, body string) *reply {
	entry := logged{Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery}
	entry.Operation, entry.Scheme = operation, "http"
	if r.TLS != nil {
		entry.Scheme = "https"
	}
	if address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		entry.Host, entry.Port, _ = net.SplitHostPort(address.String())
	}
	entry.Headers = map[string]string{"host": r.Host}
	text := r.RequestURI + "\n" + html.UnescapeString(body)
	for name, values := range r.Header {
		value := strings.Join(values, ", ")
		entry.Headers[strings.ToLower(name)] = value
		text += "\n" + value
	}
	if len(r.TransferEncoding) > 0 {
		entry.Headers["transfer-encoding"] = strings.Join(r.TransferEncoding, ", ")
	}
	basic := base64.StdEncoding.EncodeToString([]byte(s.User + ":" + s.Password))
	entry.Password = strings.Contains(text, s.Password) || strings.Contains(text, basic)
	return &reply{ResponseWriter: w, server: s, entry: entry}
}

func (w *reply) WriteHeader(status int) {
	if !w.begun {
		w.begun = true
		w.note(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *reply) Write(data []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(data)
}

// Flush sends what was written.
func (w *reply) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

// end notes what was not answered.
func (w *reply) end() {
	if !w.begun {
		w.note(0)
	}
}

func (w *reply) note(status int) {
	w.entry.Status = status
	if line, err := json.Marshal(w.entry); err == nil {
		w.server.log.Write(append(line, '\n')) // one write: lines stay whole
	}
}
