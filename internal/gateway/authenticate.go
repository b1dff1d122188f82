package gateway

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
)

// Credential returns what a client presented in Authorization (Bearer),
// x-api-key or api-key. Clients may send the same credential twice; two
// different ones, or a header repeated, are refused: nobody should have to
// guess which of them counts.
func Credential(h http.Header) (string, error) {
	found := ""
	for _, name := range []string{"Authorization", "X-Api-Key", "Api-Key"} {
		values := h[name]
		if len(values) == 0 {
			continue
		}
		if len(values) > 1 {
			return "", ErrAmbiguous
		}
		value := strings.TrimSpace(values[0])
		if name == "Authorization" {
			scheme, token, _ := strings.Cut(value, " ")
			if !strings.EqualFold(scheme, "Bearer") {
				return "", ErrCredential
			}
			value = strings.TrimSpace(token)
		}
		if value == "" {
			continue
		}
		if found != "" && found != value {
			return "", ErrAmbiguous
		}
		found = value
	}
	if found == "" {
		return "", ErrCredential
	}
	return found, nil
}

// authenticate finds out who calls. What fails here is recorded in the
// background and coalesced, so that a flood cannot fill the log or slow it.
func (g *Gateway) authenticate(ctx context.Context, in Incoming) (identity.Caller, error) {
	if in.Resume != nil {
		who, err := g.o.Authenticator.Readmit(ctx, in.Resume.Resumed)
		if err != nil {
			return identity.Caller{}, g.unknown(in, who, err)
		}
		return who, nil
	}
	if in.Credential == "" {
		return identity.Caller{}, g.unknown(in, identity.Caller{}, ErrCredential)
	}
	who, err := g.o.Authenticator.Authenticate(ctx, in.Credential)
	if err != nil {
		return identity.Caller{}, g.unknown(in, who, err)
	}
	if err := atDoor(who, in); err != nil {
		return identity.Caller{}, g.unknown(in, who, err)
	}
	g.o.Authenticator.Used(who, g.o.Now())
	return who, nil
}

// Unauthenticated refuses a request whose credential the front could not even
// read, the same way as one that is not known. err says why.
func (g *Gateway) Unauthenticated(in Incoming, err error) *Refusal {
	return g.unknown(in, identity.Caller{}, err)
}

func (g *Gateway) unknown(in Incoming, who identity.Caller, err error) *Refusal {
	r := Refuse(err)
	if r.Kind == fault.Internal {
		g.o.Logger.Error("cannot authenticate", "front", in.Front, "error", err)
	}
	if g.o.Trap != nil && in.Credential != "" && r.Code == identity.ErrCredential.Code {
		g.o.Trap(in.Credential, host(in.Remote), in.Client, in.Front+"/"+in.Connection)
	}
	ev := audit.Event{Type: audit.AuthRefused, Actor: audit.Actor{Kind: audit.KindAgent}}
	describe(&ev, in, who)
	g.refused.add(ev, r.Code)
	return r
}

// parse lets the front read the body. What it cannot understand is recorded,
// durably, as call.refused.
func (g *Gateway) parse(ctx context.Context, in Incoming, who identity.Caller) (*Call, error) {
	said, err := saidSubject(in.Subject)
	var call *Call
	if err == nil {
		call, err = in.Parse(ctx, who)
	}
	if err == nil && call == nil {
		err = ErrNotParsed
	}
	if err == nil && call.Request != nil {
		call.Who = who
		err = g.inspect(call)
	}
	if err == nil {
		call.about(said)
		call.Who, call.remote, call.credential, call.resume = who, in.Remote, in.Credential, in.Resume
		call.ID = in.Resume.call(call)
		g.prepare(call)
		if err = g.place(call); err == nil {
			g.saw(call, call.foundKinds())
			g.guardRequest(ctx, call)
			g.guardSaw(call)
			return call, nil
		}
	}
	r := Refuse(err)
	if r.Code == ErrOwn.Code { // no call: nothing was refused
		return nil, r
	}
	ev := audit.Event{Type: audit.CallRefused}
	describe(&ev, in, who)
	ev.Run = g.runs.look(who, "", g.o.Now()).id
	if call != nil && call.Connection.Name != "" {
		ev.Connection, ev.Tool, ev.Effect = call.Connection.Name, call.Tool.Name, call.Tool.Effect
		ev.Call = in.Resume.call(call)
	}
	ev.Detail = detail(refusedDetail{Front: in.Front, Code: r.Code, Reason: clip(r.Reason, 500)})
	// A client that goes away while it is refused does not stop the record.
	ref, lerr := g.o.Ledger.Append(context.WithoutCancel(ctx), ev)
	if lerr != nil {
		g.o.Logger.Error("a refusal could not be recorded", "code", r.Code, "error", errors.Join(lerr, err))
		return nil, &Refusal{Kind: ErrLedger.Kind, Code: ErrLedger.Code, Reason: ErrLedger.Message, RetryAfter: retryLedger, cause: lerr}
	}
	if r.Kind == fault.Internal {
		g.o.Logger.Error("a request could not be parsed", "front", in.Front, "event", ref.ID, "error", err)
	}
	out := *r
	out.Event = ref.ID
	return nil, &out
}

type refusedDetail struct {
	Front  string `json:"front"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

// describe fills in what is known about the sender.
func describe(ev *audit.Event, in Incoming, who identity.Caller) {
	ev.Remote, ev.Client = host(in.Remote), clip(in.Client, 200)
	ev.Connection, ev.Tool = clip(in.Connection, 200), clip(in.Tool, 200)
	caller(ev, who)
}

// caller fills in who calls.
func caller(ev *audit.Event, who identity.Caller) {
	ev.Agent, ev.Owner, ev.Team, ev.Stage = who.Agent.Name, who.Agent.Owner, who.Agent.Team, who.Agent.Stage
	ev.Credential, ev.OnBehalfOf = who.Credential.ID, who.OnBehalfOf
	ev.Actor = audit.Actor{Kind: audit.KindAgent, ID: who.Agent.ID, Name: who.Agent.Name}
}

// Identify authenticates a request that its front answers itself, from calls
// that each go the whole way (an aggregated list) or from nothing but the
// protocol (a ping). It is refused and recorded as Serve would. The error is
// always a *Refusal.
func (g *Gateway) Identify(ctx context.Context, in Incoming) (identity.Caller, error) {
	return g.authenticate(ctx, in)
}
