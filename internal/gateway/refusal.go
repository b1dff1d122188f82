package gateway

import (
	"errors"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/releases"
)

// Codes of refusals that a front must be able to tell apart.
const (
	CodeDenied   = "policy_denied"
	CodePending  = "approval_pending"
	CodeDrifted  = "tool_changed"
	CodeUnpinned = "tool_not_accepted"
	CodeLocked   = "locked"

	CodeRefused    = "approval_denied"     // a person said no
	CodeLapsed     = "approval_expired"    // nobody decided, or the call was not made, in time
	CodeVoid       = "approval_void"       // something that was approved has changed
	CodeImpossible = "approval_impossible" // nobody could approve
	CodeOutcome    = "approval_executed"   // it was made; its answer is not kept
)

// Refusal is why a call got no answer from its upstream. Serve and Reach
// return no other error. Nothing in it is secret or about another agent.
type Refusal struct {
	Kind   fault.Kind // its Status is the HTTP status of the refusal
	Code   string     // stable, for programs
	Reason string     // for people and models: what happened and what to do
	Advice []string   // from the policies that denied or hold

	Call       string // call_…, empty if it never became a call
	Event      string // evt_… that recorded the refusal, or of the intent if the upstream failed; may be empty
	Run        string
	Scope      string        // that would be enough, with CodeScope
	RetryAfter time.Duration // when trying again makes sense; 0 if unknown
	// Sent reports that the request may have reached the upstream.
	Sent bool
	// Approval is the request that the call attached to; nil if there is none.
	Approval *Waiting

	cause error
}

// Error returns the reason.
func (r *Refusal) Error() string { return r.Reason }

// Unwrap returns the cause, for our own log; it is never shown to the agent.
func (r *Refusal) Unwrap() error { return r.cause }

// Held reports whether the call waits for people.
func (r *Refusal) Held() bool { return r.Code == CodePending }

// Denied reports whether policy, a hold, a budget or a pin refused the call, as opposed
// to its form or to a failure.
func (r *Refusal) Denied() bool {
	switch r.Code {
	case CodeDenied, CodePending, CodeDrifted, CodeUnpinned, CodeLocked, CodeRefused, CodeLapsed, CodeVoid, CodeImpossible, CodeOutcome, CodeInspected, CodeBudget, CodeMisfit, CodeLimited, CodeStage, releases.CodeOutside, releases.CodeStage, releases.CodeNone, releases.ErrRolled.Code:
		return true
	}
	return false
}

// Refuse turns an error into a Refusal: a *Refusal stays what it is, a fault
// keeps its kind, code and message, anything else becomes internal.
func Refuse(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	public := fault.Public(err)
	return &Refusal{Kind: public.Kind, Code: public.Code, Reason: public.Message, cause: err}
}

// Errors of this package.
var (
	ErrCredential = fault.New(fault.Unauthenticated, "credential_missing", "no credential was presented; send the agent's key as Authorization: Bearer, x-api-key or api-key")
	ErrAmbiguous  = fault.New(fault.Unauthenticated, "credential_ambiguous", "more than one credential was presented; send exactly one")
	ErrNotParsed  = fault.New(fault.Internal, "not_parsed", "the front understood nothing and said nothing")
	ErrPath       = fault.New(fault.Invalid, "bad_path", "the path may not contain empty, dot or encoded-slash segments")
	ErrBody       = fault.New(fault.Invalid, "bad_body", "the request's body could not be read to its announced end")
	ErrSlow       = fault.New(fault.Invalid, "body_too_slow", "the request's body did not arrive in time")
	ErrTooLarge   = fault.New(fault.TooLarge, "body_too_large", "the request's body is over the limit")
	ErrConnection = fault.New(fault.NotFound, "unknown_connection", "there is no such connection")

	// ErrHidden is recorded when an agent asks for a connection on which nothing
	// allows it anything. Fronts answer as if there were no such connection.
	ErrHidden = fault.New(fault.NotFound, "unknown_connection", "the connection exists, but nothing allows this agent to use anything on it, so to the agent it does not exist")

	// ErrOwn is what a front's Parse returns for a message that the front answers
	// itself, from nothing but how the agent's own requests stand (Ask).
	ErrOwn = fault.New(fault.Invalid, "own_message", "the front answers this message itself")

	ErrURL        = fault.New(fault.Unavailable, "bad_connection", "the connection's URL cannot be used; ask its owner")
	ErrAddress    = fault.New(fault.Upstream, "address_refused", "the upstream's address is private, local or reserved, and its connection does not allow that")
	ErrUpstream   = fault.New(fault.Upstream, "upstream_unreachable", "the upstream could not be reached")
	ErrBroken     = fault.New(fault.Upstream, "upstream_broken", "the upstream broke off in the middle of its answer")
	ErrTimeout    = fault.New(fault.Upstream, "upstream_timeout", "the upstream did not answer in time")
	ErrIdle       = fault.New(fault.Upstream, "upstream_idle", "the upstream fell silent in the middle of its answer")
	ErrRedirect   = fault.New(fault.Upstream, "upstream_redirect", "the upstream answered with a redirect, which is not followed; ask the connection's owner to correct its URL")
	ErrRejected   = fault.New(fault.Upstream, "upstream_credential", "the upstream refused Countersign's own credential; ask the connection's owner")
	ErrAnswer     = fault.New(fault.Upstream, "upstream_answer", "the upstream's answer could not be understood")
	ErrGuarded    = fault.New(fault.Denied, CodeGuarded, "the guardrail service of the connection does not let this pass")
	ErrReferences = fault.New(fault.Unavailable, "references_unavailable", "what stands for the text of the answer cannot be kept; try again")
	ErrInspected  = fault.New(fault.Denied, CodeInspected, "something was found in the content that may not pass on this connection")
	ErrCancelled  = fault.New(fault.Unavailable, "cancelled", "the call was cancelled")
	ErrBlind      = fault.New(fault.Unavailable, "cut_blind", "the call was cut: for too long nobody could tell whether its caller may still call; try again")
	ErrStopped    = fault.New(fault.Denied, "stopped", "the call was cut: its agent, owner or credential may not call any more")
	ErrLedger     = fault.New(fault.Unavailable, "log_unavailable", "the log cannot be written, so nothing is forwarded; try again")
	ErrSecret     = fault.New(fault.Unavailable, "secret_unavailable", "the upstream's credential cannot be used; ask the connection's owner")
	ErrNoReceipt  = fault.New(fault.Internal, "no_receipt", "the call has no receipt for its intent")
	ErrTransport  = fault.New(fault.Unavailable, "no_transport", "nothing here can reach this kind of connection")
	ErrOvertime   = fault.New(fault.Unavailable, "overtime", "it took too long until the call could be recorded, so it was not made")
	ErrPanic      = fault.New(fault.Internal, "internal", "internal error while the call was under way; its outcome is recorded")
	ErrHeader     = fault.New(fault.Invalid, "bad_header", "a header of the request is malformed")
)
