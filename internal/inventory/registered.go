package inventory

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/connections"
)

// register is what is registered at one time.
type register struct {
	s     *Service
	hosts map[string]bool
	rules []string // texts of policies and conditions of grants
	gone  map[string]time.Time
	aside map[key]Aside
}

// registered reads what known needs.
func (s *Service) registered(ctx context.Context) (register, error) {
	reg := register{s: s, hosts: map[string]bool{}}
	for _, c := range s.o.Connections.Connections() {
		if u, err := url.Parse(c.URL); err == nil && u.Host != "" {
			reg.hosts[strings.ToLower(u.Host)], reg.hosts[strings.ToLower(u.Hostname())] = true, true
		}
	}
	files, err := s.o.Policy.Files(ctx)
	if err != nil {
		return reg, err
	}
	grants, err := s.o.Policy.Grants(ctx, "")
	for _, f := range files {
		reg.rules = append(reg.rules, f.Text)
	}
	for _, g := range grants {
		if g.When != "" {
			reg.rules = append(reg.rules, g.When)
		}
	}
	return reg, err
}

// ruled reports whether a policy, or a condition of a grant, names a text.
func (r register) ruled(text string) bool {
	for _, rule := range r.rules {
		if strings.Contains(rule, `"`+text+`"`) {
			return true
		}
	}
	return false
}

// known returns why a thing is not registered, "" if it is.
func (r register) known(k key) string {
	s := r.s
	first, rest, _ := strings.Cut(k.name, "/")
	ok, why := false, ""
	switch k.kind {
	case KindAgent:
		_, ok = s.o.Identity.Agent(k.name)
		why = "it called and is not registered"
	case KindCaller:
		why = "it called with a credential that is no agent's, or with none"
	case KindConnection:
		_, ok = s.o.Connections.Connection(k.name)
		why = "it was asked for and is not registered"
	case KindTool:
		t, there := s.o.Connections.Tool(first, rest)
		if ok = there && t.Status != connections.StatusNew; there {
			why = "nobody accepted it"
		} else {
			why = "it was called for and is not registered"
		}
	case KindModel:
		ok = s.o.Priced != nil && s.o.Priced(rest) || r.ruled(rest)
		why = "no price and no rule names it"
	case KindSecret:
		ok, why = r.held(first, rest)
	case KindNetwork:
		ok = private(k.name) || r.ruled(k.name)
		why = "agents call from it, it is part of the internet, and no rule names it"
	case KindHost:
		host, _, _ := strings.Cut(k.name, ":")
		ok = r.hosts[k.name] || r.hosts[host]
		why = "it was asked for through the proxy, and no connection has it"
	}
	if ok {
		return ""
	}
	return why
}

// held reports whether a secret that turned up is one that is kept here, or a
// credential of ours: what was reported of those is answered to by leaks.
func (r register) held(what, name string) (ok bool, why string) {
	switch what {
	case "secret":
		_, ok = r.s.o.Secrets.Secret(name)
		return ok, "it was found in the open and is not kept here"
	case "agent":
		_, ok = r.s.o.Identity.Agent(name)
		return ok, "a credential of an agent that is gone was found in the open"
	case "user":
		_, ok = r.s.o.Identity.User(name)
		return ok, "a credential of a user who is gone was found in the open"
	case "canary":
		return false, "nobody uses it, so whoever showed it has read where it was put"
	}
	return false, "what looks like a secret stood in what they said to each other, and nothing is known of where it is kept"
}

// removed reports whether a thing was registered when it was last seen, and is
// deleted since.
func (r register) removed(k key, last time.Time) bool {
	object, connection := k.kind+"/"+k.name, ""
	switch k.kind {
	case KindTool, KindModel:
		first, _, _ := strings.Cut(k.name, "/")
		connection = "connection/" + first
	case KindSecret:
		object = k.name
	}
	for _, o := range []string{object, connection} {
		if at, ok := r.gone[o]; ok && !last.After(at) {
			return true
		}
	}
	return false
}
