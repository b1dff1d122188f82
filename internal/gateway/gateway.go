package gateway

import (
	"context"
	"encoding/json/jsontext"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
)

// Serve takes one request the whole way. The error is always a *Refusal.
func (g *Gateway) Serve(ctx context.Context, in Incoming) (*Answer, error) {
	who, err := g.authenticate(ctx, in) // agent, principal chain, credential
	if err != nil {
		return nil, err
	}
	call, err := g.parse(ctx, in, who) // the body is read only now, and inspected
	if err != nil {
		return nil, err
	}
	verdict := g.decide(call)                                  // pin, grants, policy: allow, deny or hold
	verdict = guardedVerdict(call, g.inspected(call, verdict)) // what was found in it may hold or deny what policy allows
	verdict = g.postured(ctx, call, verdict)                   // detection may slow an agent down, or have all of its calls held
	verdict = g.limit(ctx, call, verdict)                      // how often the tool may be called
	verdict = g.delayed(in, call, verdict)                     // an effect may have to wait, and can be cancelled until it is sent
	verdict = g.approve(ctx, in, call, verdict)                // no-op unless held; a resumed call starts again at authenticate
	verdict = g.budgeted(ctx, in, call, verdict)               // what it may use is reserved, if it has a budget
	g.unplace(call, verdict)                                   // what a model proposed and is not made now can be made later
	receipt, err := g.record(ctx, in, call, verdict)           // durable or the request ends here; a denial yields no receipt
	if err != nil {
		return g.unmade(ctx, call, verdict, err)
	}
	return g.forward(ctx, receipt, call) // the secret is injected here; the outcome is recorded when the answer ends
}

// Reach takes a call of Countersign's own (discovery), in the name of by, the
// same way but for identity and policy: recorded before it leaves, forwarded
// with a receipt, its outcome recorded. The error is always a *Refusal.
func (g *Gateway) Reach(ctx context.Context, by audit.Actor, reason string, call *Call) (*Answer, error) {
	g.prepare(call)
	if err := g.locked(call); err != nil {
		return nil, Refuse(err)
	}
	receipt, err := g.recordReach(ctx, by, reason, call)
	if err != nil {
		return nil, err
	}
	return g.forward(ctx, receipt, call)
}

// Authenticator resolves credentials; identity.Service is one.
type Authenticator interface {
	Authenticate(ctx context.Context, credential string) (identity.Caller, error)
	Readmit(ctx context.Context, r identity.Resumed) (identity.Caller, error)
	Used(c identity.Caller, at time.Time)
}

// Decider answers policy's question; policy.Service is one.
type Decider interface {
	Decide(req policy.Request) policy.Decision
	Visible(a policy.Agent, act policy.Action) bool
	MayHold(a policy.Agent, act policy.Action) bool
	Provenance() bool // whether a policy asks where values come from
	Budget() bool     // whether a policy asks what is left of budgets
}

// Ledger is the part of the log that a call needs; audit.Log is one.
type Ledger interface {
	Intent(ctx context.Context, ev audit.Event, p ...audit.Payload) (audit.Receipt, error)
	Append(ctx context.Context, ev audit.Event, p ...audit.Payload) (audit.Ref, error)
	Outcome(r audit.Receipt, ev audit.Event, p ...audit.Payload)
	Later(ev audit.Event)
}

// Injector hands out an upstream's secret against a receipt; secrets.Service is one.
type Injector interface {
	Inject(ctx context.Context, r audit.Receipt, u secrets.Use) (secrets.Value, error)
	Rejected(u secrets.Use)
}

// Locks says whether a lock stops a call; locks.Service does.
type Locks interface {
	Check(sub locks.Subject) error
}

// Options are what a gateway is made of. Authenticator, Decider, Ledger,
// Injector and Redactor must be set.
type Options struct {
	Authenticator Authenticator
	Decider       Decider
	Ledger        Ledger
	Injector      Injector
	Redactor      audit.Redactor      // applied before a capture is cut, so that no half secret survives the cut
	Scanner       *inspection.Scanner // looks at requests and answers; nil does not
	Locks         Locks               // nil locks nothing
	Approvals     Approvals           // asks people about held calls; nil refuses them as pending
	Budgets       Budgets             // bounds what calls use; nil does not
	Flow          Flow                // where values come from; nil leaves context.provenance empty
	Pseudonyms    Pseudonyms          // what stands for values; nil: markers alone
	Endorsements  Endorsements        // what people endorsed beforehand; nil: nothing
	Runs          Runs                // to which run a call belongs; nil goes by credential and time
	// Readers returns the names that a recipient (an address, a login) has as a
	// reader of documents; nil knows nobody.
	Readers func(recipient string) []string
	// Named returns every tool that a model may know under a name; nil knows none.
	Named    func(name string) []connections.Named
	Rates    Rates    // how often tools may be called; nil does not limit
	Releases Releases // what an agent's release includes; nil pins nothing
	// Posture returns what detection asks for an agent's calls, in memory but for those
	// of an agent that it slows down; nil asks for nothing.
	Posture func(ctx context.Context, agent string) (Posture, error)
	// Posed, if set, is told of a tool whose answer to a call poses as something
	// else. It must not block.
	Posed func(connection, tool, call string)
	// Used, if set, is told of every agent's call that goes out, by its
	// connection. It must not block.
	Used func(connection string, at time.Time)
	// Trap is shown every credential that is unknown, with who presented it and
	// where: it may be a canary. It must not block, nor keep the credential. May be nil.
	Trap   func(credential, remote, client, door string)
	Now    func() time.Time
	Logger *slog.Logger

	// HeaderTimeout is how long an upstream may take to begin its answer when
	// its connection does not say; 0 means 10 minutes.
	HeaderTimeout time.Duration
	// IdleTimeout is how long an answer may be silent; 0 means 5 minutes.
	IdleTimeout time.Duration
	// BlindFor is how long this replica may be unable to see identities and
	// locks before it cuts the calls in flight; 0 means 10 seconds. New ones it
	// refuses at once.
	BlindFor time.Duration
	// RunGap is the pause after which an agent's next call begins a new derived
	// run; 0 means 15 minutes.
	RunGap time.Duration
}

// Gateway is the line. It is safe for concurrent use.
type Gateway struct {
	o          Options
	transports *transports
	runs       *book
	refused    *coalescer
	flight     flight
	standing   *standing
	schemas    schemas
	guards     *guards
}

// New returns a gateway. Close stops it.
func New(o Options) *Gateway {
	if o.Authenticator == nil || o.Decider == nil || o.Ledger == nil || o.Injector == nil || o.Redactor == nil {
		panic("gateway: Authenticator, Decider, Ledger, Injector and Redactor must be set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.HeaderTimeout = orDefault(o.HeaderTimeout, 10*time.Minute)
	o.IdleTimeout = orDefault(o.IdleTimeout, 5*time.Minute)
	o.BlindFor = orDefault(o.BlindFor, 10*time.Second)
	o.RunGap = orDefault(o.RunGap, 15*time.Minute)
	g := &Gateway{
		o: o, transports: newTransports(o.HeaderTimeout), runs: newBook(o.RunGap),
		refused: newCoalescer(o.Now, o.Ledger.Later), standing: newStanding(o.BlindFor), guards: newGuards(),
	}
	g.runs.open = g.openRun
	return g
}

// Stdio sets what carries calls to connections that are started by a command.
// It must be called before the first call.
func (g *Gateway) Stdio(t Transport) { g.transports.stdio = t }

// Retrieval sets what carries calls to retrieval connections. It must be called
// before the first call.
func (g *Gateway) Retrieval(t Transport) { g.transports.retrieval = t }

// Close waits until every call under way has handed over its outcome, then
// releases connections. The log must be closed after it.
func (g *Gateway) Close(ctx context.Context) error {
	err := g.flight.wait(ctx)
	g.standing.close()
	g.refused.close()
	g.transports.close()
	g.guards.close()
	return err
}

// Visible reports whether who may use the tool for some arguments: what lists show.
func (g *Gateway) Visible(who identity.Caller, c connections.Connection, t connections.Tool) bool {
	return g.o.Decider.Visible(policyAgent(who), policyAction(c, t))
}

// Listed reports whether a list of tools shows the tool to who: it is visible and
// one of the agent's releases in force includes it. A call of one that is not is
// refused with that reason.
func (g *Gateway) Listed(who identity.Caller, c connections.Connection, t connections.Tool) bool {
	return c.Serves(who.Agent.Stage) && g.Visible(who, c, t) && (g.o.Releases == nil || g.o.Releases.Shows(who.Agent.Name, c.Name, t.Name))
}

// MayHold reports whether a call of the tool by who may have to wait for people.
func (g *Gateway) MayHold(who identity.Caller, c connections.Connection, t connections.Tool) bool {
	return g.o.Approvals != nil && g.o.Decider.MayHold(policyAgent(who), policyAction(c, t))
}

// Would returns what policy would decide for a call of who with these
// arguments now, without recording anything: for lists of what may be used.
func (g *Gateway) Would(who identity.Caller, c connections.Connection, t connections.Tool, args jsontext.Value) policy.Decision {
	call := &Call{Connection: c, Tool: t, Args: args, Who: who}
	if v, refused := crossed(call); refused {
		return policy.Decision{Effect: policy.Deny, Reason: v.reason}
	}
	call.placed.matched = true // whether a model proposes it is seen when it does
	if v, refused := g.released(call); refused {
		return policy.Decision{Effect: policy.Deny, Reason: v.reason}
	}
	if err := g.reckon(call); err != nil {
		return policy.Decision{Effect: policy.Deny, Reason: fault.Public(err).Message}
	}
	return g.o.Decider.Decide(g.question(call, g.o.Now()))
}

func orDefault(d, standard time.Duration) time.Duration {
	if d == 0 {
		return standard
	}
	return d
}
