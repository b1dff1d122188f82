package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/lifecycle"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/secrets/lease"
	"github.com/countersign/countersign/internal/tokens"
)

// buildLifecycle builds what happens to agents without an owner, without use,
// and at their end. It comes after every room in which an agent has something.
func (h *house) buildLifecycle(_ context.Context, log *slog.Logger) error {
	o := h.cfg.Lifecycle
	var err error
	h.lifecycle, err = lifecycle.New(lifecycle.Options{
		DB: h.db, Log: h.log, Watch: h.watch, Identity: h.identity, Locks: h.locks, Findings: h.findings, Derive: h.secrets.Derive, Logger: log,
		Doors: frontDoors{h}, Parts: h.parts(),
		Production: o.Production, Grace: o.Grace, IdleAfter: o.IdleAfter, WarnBefore: o.IdleWarning,
	})
	return err
}

// parts is what a decommission ends, room by room.
func (h *house) parts() []lifecycle.Part {
	one := func(what string, n int, err error) (map[string]int, error) {
		if n == 0 {
			return nil, err
		}
		return map[string]int{what: n}, err
	}
	return []lifecycle.Part{
		{Name: "connections", End: h.lockSole},
		{Name: "leases", After: h.leases.Wake, End: func(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a identity.Agent) (map[string]int, error) {
			n, err := h.leases.EndTx(ctx, tx, by, reason, lease.Which{Agent: a.Name})
			return one("leases", n, err)
		}},
		{Name: "approvals", End: func(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a identity.Agent) (map[string]int, error) {
			n, err := h.approvals.WithdrawAllTx(ctx, tx, by, reason, a.Name)
			return one("approvals", n, err)
		}},
		{Name: "grants", End: func(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a identity.Agent) (map[string]int, error) {
			n, err := h.policy.RevokeAllTx(ctx, tx, by, reason, a.Name)
			return one("grants", n, err)
		}},
		{Name: "tokens", End: h.tokens.RetireTx},
	}
}

// lockSole locks the connections that an agent alone may use: nobody is left
// for whom they, and the secrets they hold, would be there. Their owners remove
// them or lift the lock.
func (h *house) lockSole(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, a identity.Agent) (map[string]int, error) {
	n := 0
	for _, c := range h.connections.Connections() {
		if !h.sole(a, c) {
			continue
		}
		l := locks.Lock{Kind: locks.Connection, Name: c.Name, Reason: "only the agent " + a.Name + " could use it, and it was decommissioned"}
		if _, err := h.locks.AddTx(ctx, tx, by, l, 0); err != nil {
			return nil, err
		}
		n++
	}
	if n == 0 {
		return nil, nil
	}
	return map[string]int{"connections_locked": n}, nil
}

func (h *house) sole(a identity.Agent, c connections.Connection) bool {
	sees := func(name string) bool {
		p, ok := h.policyAgent(name)
		return ok && h.policy.Sees(p, c.Name)
	}
	if !sees(a.Name) {
		return false
	}
	for _, other := range h.identity.Agents() {
		if other.Name != a.Name && other.Retired.IsZero() && sees(other.Name) {
			return false
		}
	}
	return true
}

// frontDoors are the doors of this replica, over the network.
type frontDoors struct{ h *house }

// errNotOpen is for who comes before the doors are.
var errNotOpen = errors.New("the doors are not open yet")

// Of implements lifecycle.Doors.
func (f frontDoors) Of(a identity.Agent) []string {
	paths := []string{"/mcp"}
	for _, d := range f.h.doorsFor(identity.Caller{Agent: a}) {
		door := map[string]string{"retrieval": "retrieve"}[d.Kind]
		if door == "" {
			door = d.Kind
		}
		paths = append(paths, "/"+door+"/"+d.Name)
	}
	return paths
}

// Token implements lifecycle.Doors.
func (f frontDoors) Token(ctx context.Context, key string, paths []string) (string, error) {
	resources := make([]string, len(paths))
	for i, p := range paths {
		resources[i] = f.h.tokens.Issuer() + p
	}
	t, err := f.h.tokens.Exchange(ctx, tokens.Subject{Token: key}, tokens.Ask{Resources: resources, Client: "countersign decommission"})
	return t.Token, err
}

// probeWithin is how long a door may take to answer a probe.
const probeWithin = 10 * time.Second

// Try implements lifecycle.Doors: it asks for what is never forwarded, and which
// a front looks at only when it knows who asks.
func (f frontDoors) Try(ctx context.Context, path, credential string) (status int, refused bool, err error) {
	return f.try(ctx, path, credential, "countersign decommission")
}

// try is Try for a client of this name.
func (f frontDoors) try(ctx context.Context, path, credential, client string) (status int, refused bool, err error) {
	at := f.h.front.Load()
	if at == nil {
		return 0, false, errNotOpen
	}
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	req, err := probe(ctx, *at, f.h.tokens.Issuer(), path, credential)
	if err != nil {
		return 0, false, err
	}
	req.Header.Set("User-Agent", client)
	resp, err := (&http.Transport{Proxy: nil, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, false, fmt.Errorf("no answer at %s", path)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	switch {
	case resp.StatusCode >= 500:
		return resp.StatusCode, false, fmt.Errorf("%s answers %d", path, resp.StatusCode)
	case path == "/oauth2/token": // RFC 6749 section 5.2
		return resp.StatusCode, resp.StatusCode >= 400, nil
	}
	return resp.StatusCode, resp.StatusCode == http.StatusUnauthorized, nil
}

func probe(ctx context.Context, base, issuer, path, credential string) (*http.Request, error) {
	method, body, kind := http.MethodGet, "", ""
	switch {
	case path == "/oauth2/token":
		method, kind = http.MethodPost, "application/x-www-form-urlencoded"
		body = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:access_token&resource=" + url.QueryEscape(issuer+"/mcp") + "&subject_token=" + credential
	case path == "/mcp" || strings.HasPrefix(path, "/mcp/"):
		method, body, kind = http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, "application/json"
	default:
		path += "/%2e%2e/countersign-probe" // refused at every front, after it knows who asks
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if path != "/oauth2/token" {
		req.Header.Set("Authorization", "Bearer "+credential)
		req.Header.Set("Accept", "application/json, text/event-stream")
		req.Header.Set("X-Http-Method-Override", "PROBE") // the front of HTTP APIs forwards nothing with it
	}
	return req, nil
}

// loopback is how this process reaches a listener of its own.
func loopback(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "http://" + l.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, port)
}
