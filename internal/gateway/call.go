package gateway

import (
	"context"
	"encoding/json/jsontext"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/runs"
)

// Incoming is a request as a front received it, before anyone knows who sent
// it and before a byte of its body was read.
type Incoming struct {
	Front      string   // "llm", "mcp"
	Connection string   // as the path names it: for the log when parsing fails; may be empty
	Tool       string   // the same, if known before the body is read
	Credential string   // as presented; see Credential
	Remote     string   // network address, with or without the port
	Client     string   // User-Agent
	Subject    []string // whom the agent says the call is about; see SubjectOf
	// Parse reads the body and turns it into a Call. It runs after the caller
	// is known. An error refuses the request: a *Refusal or a fault. With an
	// error it may also return what it understood, for the log.
	Parse func(ctx context.Context, who identity.Caller) (*Call, error)
	// Resume says that this is the call that people approved under this
	// request: it is made in the name of those it was held for, whose client
	// may be gone, and goes the whole way again.
	Resume *Resumed
	// Wire, if not nil, returns the request so that it can be made again without
	// its client (no credential in it). Serve asks only for a held call.
	Wire func() *approvals.Wire
}

// Call is one request by an agent to a tool. The front fills it in Parse;
// Serve fills what is marked so.
type Call struct {
	Connection connections.Connection
	Tool       connections.Tool
	Args       jsontext.Value // what policy reads: a JSON object, strictly parsed from the bytes in Request
	Request    *Upstream
	Digest     string // hex SHA-256 of the exact bytes decided on; by Serve, of Request's query and body, if empty
	// Bound is what an approval is for, where that is not exactly Request.Body:
	// the envelope around an MCP message differs from one sending to the next.
	Bound []byte
	// Unbound, if not empty, says why no approval can be for this call: its
	// content is not all known before it is sent. A held one is then refused.
	Unbound  string
	Prompt   []audit.Payload // recorded with the intent, beside the arguments; may alias Request.Body
	Observer Observer        // may be nil
	// Reread makes the call anew from what replace leaves of what the client sent.
	// Nil where nothing can be replaced.
	Reread func(replace func([]byte) []byte) error
	Model  string // of a call of a model, which one was asked for: for the log
	Odd    string // the parameter of it that no client sends; empty: none
	// Said, if set, returns what the request says in the words of people.
	Said func() []Said
	// Continues, if set, returns by what the request can be seen to continue an
	// earlier exchange with a model, the newest first.
	Continues func() []runs.Link
	// Fetches says that a model's provider may read for the answer what anybody
	// wrote: it has tools of its own.
	Fetches bool
	// Instructed says that the provider adds instructions of its own keeping, which
	// nobody here has seen.
	Instructed bool
	// JSONMessages says that policy reads the messages of the call, once it is
	// upgraded, as JSON and not as text.
	JSONMessages bool
	// Rewrite, if set, may change the upstream's answer (header and body)
	// before it is observed, measured and passed on: lists are filtered here. It
	// runs for every status. If it replaces the body it answers for closing the
	// old one and for the Content-Length. An error refuses the call as a bad
	// answer of the upstream, unless it is a *Refusal itself.
	Rewrite func(resp *http.Response) error
	// Server asks for the call, if it is held, to be made by the server when it
	// is approved.
	Server bool
	// Implied, if set, says whether the call is allowed where no policy or
	// grant decides it: the plumbing of a protocol (a ping, a list that is
	// filtered) for an agent that may use something behind it. A forbid that
	// matches, or cannot be evaluated, still denies.
	Implied func() bool

	ID      string          // call_…; by Serve if empty
	Run     string          // run_…; by Serve
	Who     identity.Caller // by Serve; zero when Countersign itself reaches out
	Started time.Time       // by Serve
	remote  string          // network address of the caller, for policy

	given     jsontext.Value        // its arguments as they came, if values were put in place of placeholders
	revealed  func(b []byte) []byte // puts them there again; nil if there were none
	message   bool                  // it is asked about for a message of it, whose schema policy has
	placed    placed
	inspected inspected
	judged    *flow.Judgement // where its values come from; nil if no policy asks
	guarded   []guardFact     // what guardrail services said
	cleared   bool            // everybody whom it reaches may know what its run has read
	subject   string          // whom it is about: its payloads are kept under their key
	objects   []string        // what it touches
	release   releases.Bound  // of the agent, by which it is bound
	left      *policy.Budget  // of its budgets; nil where no policy asks

	credential string // as presented, to look again whether it is good
	resume     *Resumed
	sent       *sending          // of a request that is streamed
	hidden     []string          // what the answer must not show
	permit     *approvals.Permit // of an approved call
	reserved   *budget.Reservation
	attempts   atomic.Int32 // requests sent, if more than one
	brought    atomic.Pointer[Brought]
}

// Upstream is a call's request as it goes out. Its path is relative to the
// connection's URL.
type Upstream struct {
	Method string
	Path   string // escaped, begins with "/" or is empty
	Query  string // raw, without "?"
	// Header is the client's; forward copies what may pass and leaves it alone.
	Header http.Header
	// Body is exactly the bytes that were decided on. It must not be changed
	// afterwards: a transport may still send it when its response has come.
	Body []byte
	// Stream is what follows Body, read as it is sent; nil if Body is all.
	// Policy has not seen it, so the front answers for what may be in it. An
	// error of it breaks the request off.
	Stream io.Reader
	// Length is how many bytes Body and Stream have together; negative if that
	// is not known. Only with a Stream.
	Length int64
	// Redirects lets a redirect through to Rewrite, which answers for where it leads.
	Redirects bool
	// Upgrade asks for another protocol on the same connection; the answer then
	// may be 101 with an Answer.Upgraded.
	Upgrade string
	// Idle is how long the answer may be silent: 0 means the gateway's default,
	// negative means without limit (a listening stream).
	Idle time.Duration
}

// Answer is an upstream's answer on its way to the agent.
type Answer struct {
	Status int
	Header http.Header // what may pass on, owned by the receiver
	// Body must be read to its end or closed; closing it earlier means that the
	// client went away, cancels the upstream and records the call as cancelled.
	// Closing is idempotent. A read error means that the upstream broke off.
	Body  io.ReadCloser
	Call  string // call_…
	Event string // evt_… of the intent
	Run   string // run_…
	// Told is to be called when the client has got all of the answer; never if
	// it has not. It is not nil for an approved call that its client makes: what was not told is kept
	// for an identical call.
	Told func()
	Kept bool // the answer to the same call when it was made before
	// Trailer returns what followed the body (RFC 9110, section 6.5). It is to be
	// called after the body's end; nil if there is none.
	Trailer func() http.Header
	// Upgraded is where to write what goes to the upstream after 101, while Body
	// is what comes from it. Closing Body closes both.
	Upgraded io.Writer
	// Messages decides about the whole messages of an upgraded connection, whose
	// Body is passed on as it comes; nil if it is none.
	Messages Messages
}

// Messages says of whole messages whether they may pass; see its methods on the
// answer of an upgraded call.
type Messages interface {
	Send(batch []Message) (n int, err error)
	Receive(m *Message) error
}

// Observer sees a call's answer as it passes. One is made by the front for
// each call. Its methods are called one after the other, never concurrently,
// and must not block.
type Observer interface {
	// Begin is called once, when the upstream's header has arrived.
	Begin(status int, header http.Header)
	// Chunk sees bytes as they are passed on. It must not keep b, nor more than
	// CaptureLimit of the connection and CaptureMargin of what it saw.
	Chunk(b []byte)
	// Done is called exactly once if Begin was, after the last Chunk; err is why
	// the answer ended early, nil at its end.
	Done(err error) Seen
}

// Seen is what an observer learned from an answer.
type Seen struct {
	Usage    *audit.Usage
	Payloads []audit.Payload // of the outcome; owned by the receiver
	Failed   string          // if not empty, the answer said that the call failed, in one line
	Code     int             // of the failure, if other than the HTTP status (JSON-RPC)
	Detail   any             // of the outcome's event: a plain struct, nothing secret in it; may be nil
}

// Brought is what a transport says of the content that it answers with.
type Brought struct {
	Detail  any      // of the outcome's event: a plain struct, nothing secret in it
	Labels  []string // that the content carries, beside untrusted
	Objects []string // what was read
	// Readers are who may know each confidential thing in it.
	Readers [][]string
}

// Transport carries calls to an upstream that is not reached by HTTP alone. The
// receipt lets it obtain the secrets that the upstream needs at its start.
type Transport interface {
	// Send works like http.RoundTripper, for req made from call.Request. It must
	// end when ctx does. A response body that is closed early cancels the call.
	Send(ctx context.Context, receipt audit.Receipt, call *Call, req *http.Request) (*http.Response, error)
}
