package reviews

import (
	"context"
	"encoding/json/v2"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
)

const (
	mostProbed = 3 // tools of a grant, or agents of a connection
	probeLife  = 5 * time.Minute
	probeWhy   = "to try that what a review revoked is refused"
)

// errUnclear says that a probe was made and the log has nothing of it.
var errUnclear = fault.New(fault.Unavailable, "probe_unclear", "the call was tried, and neither its answer nor the log says what became of it")

// probe tries that an executed revoke holds.
func (s *Service) probe(ctx context.Context, it *Item) ([]Probe, error) {
	switch it.Subject.Kind {
	case Grant:
		return s.probeGrant(ctx, &it.Subject)
	case Connection:
		return s.probeLocked(ctx, it.Subject.Name, it.Remedy.Lock)
	case Secret:
		return s.probeSecret(ctx, it)
	case Owner:
		return s.probeOwner(it)
	}
	return s.probeRule(ctx, it)
}

// probeGrant makes calls as the agent whose grant it was. A tool that something
// else allows is not asked for: the call would be made.
func (s *Service) probeGrant(ctx context.Context, x *Subject) ([]Probe, error) {
	a, ok := s.o.Identity.Agent(x.Agent)
	if !ok || !a.Retired.IsZero() {
		return []Probe{{What: "call as " + x.Agent, Result: NotTried, Why: "the agent is not there any more, and nobody calls in its name"}}, nil
	}
	tools := slices.DeleteFunc(s.toolsOf(x.Connection, x.Tools), func(t connections.Tool) bool { return !t.Callable() })
	if len(tools) == 0 {
		return []Probe{{What: "call of " + x.Connection + "/" + strings.Join(x.Tools, ", "), Result: NotTried, Why: "there is no such tool any more that could be called"}}, nil
	}
	return s.asAgent(ctx, a, func(key identity.Key, value string) (out []Probe, err error) {
		for _, t := range tools[:min(len(tools), mostProbed)] {
			p := Probe{What: "call of " + x.Connection + "/" + t.Name}
			if r := s.reach(a, t); r.Possible {
				p.Result, p.Why = Otherwise, strings.Join(r.By, ", ")
			} else if p, err = s.ask(ctx, p, x.Connection, t.Name, key, value); err != nil {
				return out, err
			}
			out = append(out, p)
		}
		return out, nil
	})
}

func (s *Service) reach(a identity.Agent, t connections.Tool) policy.Reach {
	c, _ := s.o.Connections.Connection(t.Connection)
	return s.o.Policy.Reach(policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels},
		policy.Action{Connection: t.Connection, Tool: t.Name, Effect: t.Effect, Kind: c.Kind})
}

// asAgent has fn act with a key of the agent that lives only for it.
func (s *Service) asAgent(ctx context.Context, a identity.Agent, fn func(key identity.Key, value string) ([]Probe, error)) ([]Probe, error) {
	key, value, err := s.o.Identity.IssueKey(ctx, audit.System, probeWhy, a.Name, probeLife)
	if err != nil {
		return nil, err
	}
	out, err := fn(key, value)
	gone := s.o.Identity.RevokeKey(context.WithoutCancel(ctx), audit.System, probeWhy, key.ID)
	return out, errors.Join(err, gone)
}

// ask makes one call and looks in the log what became of it.
func (s *Service) ask(ctx context.Context, p Probe, connection, tool string, key identity.Key, value string) (Probe, error) {
	since := time.Now().Add(-time.Second) // events are stamped by this clock, which a test's is not
	status, err := s.o.Doors.Ask(ctx, connection, tool, value)
	if err != nil {
		return p, unreachable(err)
	}
	recs, err := s.o.Log.List(ctx, audit.Query{Agent: key.Agent, Since: since, Limit: 200,
		Types: []audit.Type{audit.CallIntent, audit.CallDenied, audit.CallRefused, audit.CallHeld, audit.AuthRefused}})
	if err != nil {
		return p, err
	}
	for _, r := range recs {
		if r.Event.Credential != key.ID {
			continue
		}
		p.Event = r.Event.ID
		if r.Event.Type == audit.CallIntent {
			p.Result, p.Why = LetThrough, ""
			return p, nil
		}
		p.Result, p.Why = refusal(r.Event)
	}
	if p.Result == "" && (status == 401 || status == 403) {
		p.Result, p.Why = Refused, "the credential was refused at the door"
	}
	if p.Result == "" {
		return p, errUnclear
	}
	return p, nil
}

// refusal says whether a call was refused for want of a right, or for something
// that says nothing about rights, such as its form.
func refusal(ev audit.Event) (result, why string) {
	var d struct {
		Code   string `json:"code"`
		Reason string `json:"reason"`
	}
	if len(ev.Detail) > 0 && json.Unmarshal(ev.Detail, &d) != nil {
		return NotTried, "its refusal cannot be read"
	}
	if d.Reason == "" && ev.Decision != nil {
		d.Reason = ev.Decision.Reason
	}
	switch ev.Type {
	case audit.CallDenied, audit.AuthRefused:
		return Refused, cutText(d.Reason, 300)
	case audit.CallRefused:
		if d.Code == "unknown_connection" || d.Code == "unknown_tool" { // to who may not use it, it does not exist
			return Refused, cutText(d.Reason, 300)
		}
		return NotTried, cutText("it was refused for another reason: "+d.Reason, 300)
	}
	return NotTried, "it waits for people: " + cutText(d.Reason, 200)
}

func unreachable(err error) error {
	var n net.Error
	if fault.KindOf(err) != fault.Internal && !errors.As(err, &n) {
		return err
	}
	return fault.New(fault.Unavailable, "probe_unanswered", "the server's own front gave no answer to a probe").With(err)
}

// probeLocked calls a disabled connection as agents that policy lets use it. Only
// tools that change nothing are asked for, and only while the lock is seen.
func (s *Service) probeLocked(ctx context.Context, connection, lock string) ([]Probe, error) {
	l, err := s.o.Locks.State(ctx, lock)
	switch {
	case errors.Is(err, locks.ErrNotFound):
		return []Probe{{What: "call of " + connection, Result: NotTried, Why: "it was gone already, or the lock is not known any more"}}, nil
	case err != nil:
		return nil, err
	case !l.Ended.IsZero():
		return []Probe{{What: "call of " + connection, Result: NotTried, Why: "its lock was lifted by " + l.EndedBy + " before it could be tried: " + cutText(l.EndReason, 200)}}, nil
	}
	var out []Probe
	for _, a := range s.o.Identity.Agents() {
		if len(out) == mostProbed {
			break
		}
		if !a.Retired.IsZero() || a.Suspended {
			continue
		}
		for _, t := range s.o.Connections.Tools(connection) {
			if t.Effect != connections.Read || !t.Callable() || t.Protocol() || !s.reach(a, t).Possible {
				continue
			}
			if s.o.Locks.Check(locks.Subject{Connection: connection}) == nil {
				return nil, fault.New(fault.Unavailable, "lock_unseen", "the lock on the connection is not in force here yet")
			}
			made, err := s.asAgent(ctx, a, func(key identity.Key, value string) ([]Probe, error) {
				p, err := s.ask(ctx, Probe{What: "call of " + connection + "/" + t.Name + " as " + a.Name}, connection, t.Name, key, value)
				return []Probe{p}, err
			})
			if err != nil {
				return nil, err
			}
			out = append(out, made...)
			break
		}
	}
	if len(out) == 0 {
		out = []Probe{{What: "call of " + connection, Result: NotTried, Why: "no agent may read anything there, and nothing else is tried"}}
	}
	return out, nil
}
