package main

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

const ticketCookie = "vmware_cgi_ticket"

// tickets stand for a session in one request each.
type tickets struct {
	guard sync.Mutex
	valid map[string]*types.SessionManagerHttpServiceRequestSpec
}

func (t *tickets) issue(spec types.BaseSessionManagerServiceRequestSpec) string {
	random := make([]byte, 16)
	rand.Read(random)
	id := "cst-VCT-" + hex.EncodeToString(random)
	request, _ := spec.(*types.SessionManagerHttpServiceRequestSpec)
	if request == nil {
		request = &types.SessionManagerHttpServiceRequestSpec{}
	}
	t.guard.Lock()
	defer t.guard.Unlock()
	if t.valid == nil {
		t.valid = map[string]*types.SessionManagerHttpServiceRequestSpec{}
	}
	t.valid[id] = request
	return id
}

// redeem tells whether a request has a ticket for just that; it is spent either way.
func (t *tickets) redeem(r *http.Request) bool {
	cookie, err := r.Cookie(ticketCookie)
	if err != nil {
		return false
	}
	t.guard.Lock()
	defer t.guard.Unlock()
	spec, ok := t.valid[cookie.Value]
	delete(t.valid, cookie.Value)
	return ok && asks(r, spec)
}
