package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// public is what may be asked without a session.
var public = map[string]bool{
	"RetrieveServiceContent": true, "Login": true, "LoginByToken": true, "CloneSession": true,
	"LoginExtensionByCertificate": true,
}

const envelope = xml.Header + `<soapenv:Envelope ` +
	`xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" ` +
	`xmlns:xsd="http://www.w3.org/2001/XMLSchema" ` +
	`xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` +
	`<soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`

// api answers SOAP: it sees to logins, tickets and faults, the simulator to the rest.
func (s *server) api(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	method, err := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err != nil {
		method = &simulator.Method{}
	}
	out := s.reply(w, r, method.Name, string(body))
	defer out.end()
	s.sweep()
	told := s.rules.take("sdk", method.Name)
	if s.apply(told, out, r) {
		return
	}
	if told != nil && told.Kind == "lose" {
		answer := httptest.NewRecorder()
		s.dispatch(answer, r, method)
		told.begin(w, answer)
		panic(http.ErrAbortHandler)
	}
	s.dispatch(out, r, method)
}

func (s *server) dispatch(w http.ResponseWriter, r *http.Request, method *simulator.Method) {
	if !s.authenticated(r) && !open(method) {
		about := fmt.Sprintf(`<object type="%s">%s</object><privilegeId>System.View</privilegeId>`,
			method.This.Type, method.This.Value)
		raise(w, "NotAuthenticated", about)
		return
	}
	switch request := method.Body.(type) {
	case *types.AcquireGenericServiceTicket:
		id := s.tickets.issue(request.Spec)
		host := strings.Split(r.Host, ":")[0]
		send(w, 200, "<AcquireGenericServiceTicketResponse xmlns=\"urn:vim25\"><returnval>"+
			"<id>%s</id><hostName>%s</hostName></returnval></AcquireGenericServiceTicketResponse>",
			id, host)
	case *types.RefreshDatastore: // the simulator would say what is free on the disk of the tests
		s.count()
		send(w, 200, `<RefreshDatastoreResponse xmlns="urn:vim25"/>`)
	case *types.CancelTask: // the simulator has none
		if stop, ok := s.cancels.LoadAndDelete(request.This.Value); ok {
			close(stop.(chan struct{}))
		}
		send(w, 200, `<CancelTaskResponse xmlns="urn:vim25"/>`)
	default:
		s.service.ServeSDK(&cookies{w}, r)
	}
}

// open tells whether a request needs no session: also for what the service says of itself.
func open(method *simulator.Method) bool {
	var spec []types.PropertyFilterSpec
	switch request := method.Body.(type) {
	case *types.RetrieveProperties:
		spec = request.SpecSet
	case *types.RetrievePropertiesEx:
		spec = request.SpecSet
	default:
		fetches := method.Name == "Fetch" && method.This == vim25.ServiceInstance
		return public[method.Name] || fetches
	}
	for _, one := range spec {
		for _, object := range one.ObjectSet {
			if object.Obj != vim25.ServiceInstance || len(object.SelectSet) > 0 {
				return false
			}
		}
	}
	return true
}

func send(w http.ResponseWriter, status int, format string, about ...interface{}) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, envelope, fmt.Sprintf(format, about...))
}

// raise answers with a fault of the API.
func raise(w http.ResponseWriter, fault, about string) {
	send(w, 500, `<soapenv:Fault>`+
		`<faultcode>ServerFaultCode</faultcode><faultstring>%[1]s</faultstring>`+
		`<detail><%[1]sFault xmlns="urn:vim25" xsi:type="%[1]s">%[2]s</%[1]sFault></detail>`+
		`</soapenv:Fault>`, fault, about)
}

// cookies writes the cookie of a session as vCenter does: in quotes, and for https only.
type cookies struct{ http.ResponseWriter }

func (w *cookies) WriteHeader(status int) {
	if set := w.Header().Get("Set-Cookie"); set != "" {
		value := strings.TrimPrefix(strings.Split(set, ";")[0], soap.SessionCookieName+"=")
		w.Header().Set("Set-Cookie",
			soap.SessionCookieName+`="`+value+`"; Path=/; HttpOnly; Secure; `)
	}
	w.ResponseWriter.WriteHeader(status)
}

// sessions returns those that live.
func sessions() []types.UserSession {
	content := simulator.Map.Get(vim25.ServiceInstance).(*simulator.ServiceInstance).Content
	view := simulator.Session{Registry: simulator.NewRegistry()}
	return view.Get(*content.SessionManager).(*simulator.SessionManager).SessionList
}

// end ends sessions.
func end(keys ...string) {
	ctx := &simulator.Context{Map: simulator.Map, Session: &simulator.Session{}}
	for _, key := range keys {
		request := &types.TerminateSession{SessionId: []string{key}}
		simulator.Map.SessionManager().TerminateSession(ctx, request)
	}
}

// sweep ends sessions that nobody used for too long.
func (s *server) sweep() {
	idle := time.Duration(s.settings.get().Idle * float64(time.Second))
	for _, one := range sessions() {
		if idle > 0 && time.Since(one.LastActiveTime) > idle {
			end(one.Key)
		}
	}
}

func (s *server) authenticated(r *http.Request) bool {
	cookie, err := r.Cookie(soap.SessionCookieName)
	return err == nil && alive(cookie.Value)
}

func alive(key string) bool {
	for _, one := range sessions() {
		if one.Key == key {
			return true
		}
	}
	return false
}

// asks tells whether a request is what a ticket was issued for.
func asks(r *http.Request, spec *types.SessionManagerHttpServiceRequestSpec) bool {
	wanted, err := url.Parse(spec.Url)
	if err != nil || wanted.Path != r.URL.Path || wanted.Query().Encode() != r.URL.Query().Encode() {
		return false
	}
	return spec.Method == "" || strings.EqualFold(strings.TrimPrefix(spec.Method, "http"), r.Method)
}
