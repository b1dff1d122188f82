package server

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/channels"
	"github.com/countersign/countersign/internal/endorsements"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/passkeys"
	"github.com/countersign/countersign/internal/reviews"
)

// buildApprovals builds the room where people decide about held calls.
func (h *house) buildApprovals(_ context.Context, log *slog.Logger) error {
	var err error
	h.passkeys, err = passkeys.New(passkeys.Options{DB: h.db, Log: h.log, Identity: h.identity, URL: h.browserURL, Logger: log})
	if err != nil {
		return err
	}
	h.approvals, err = approvals.New(h.db, h.log, h.watch, approvals.Options{
		Identity: h.identity, Findings: h.findings, Derive: h.secrets.Derive, Redactor: h.scanner, Stale: h.staleBinding, URL: h.cfg.URL, Logger: log,
		Template: h.template, Undone: h.undone, Policy: h.policy.Text, Tell: h.tell, Passkeys: h.passkeys,
	})
	if err != nil {
		return err
	}
	h.channels, err = channels.New(channels.Options{DB: h.db, Log: h.log, Watch: h.watch, Identity: h.identity, Secrets: h.secrets, Findings: h.findings, Approvals: h.approvals,
		Link: h.approvals.Link, Redactor: h.scanner, Logger: log})
	if err != nil {
		return err
	}
	h.identity.OnDelete(h.channels.KeepOwners)
	return nil
}

// tell has the channels tell what happened to a request.
func (h *house) tell(ctx context.Context, tx *audit.Tx, n approvals.News) error {
	return h.channels.Tell(ctx, tx, n)
}

// template returns how a tool's calls are said in plain words.
func (h *house) template(connection, tool string) string {
	if tool == reviews.Tool {
		return reviews.Template
	}
	if tool == endorsements.Asking {
		return endorsements.Template
	}
	t, _ := h.connections.Tool(connection, tool)
	return t.References.Template
}

// undone returns what undoes a tool's calls, in plain words.
func (h *house) undone(connection, tool string) string {
	t, _ := h.connections.Tool(connection, tool)
	u := t.References.Undo
	if u.IsZero() || u.Within == "" {
		return u.Tool
	}
	return u.Tool + ", within " + u.Within
}

// startApprovals starts the clocks of requests, and making approved calls.
func (h *house) startApprovals(ctx context.Context) error {
	if err := h.approvals.Start(ctx, h.makeApproved); err != nil {
		return err
	}
	h.onClose("approvals", h.approvals.Stop)
	if err := h.channels.Start(ctx); err != nil {
		return err
	}
	h.onClose("channels", h.channels.Stop)
	return nil
}

// staleBinding says what an approval is bound to that has changed.
func (h *house) staleBinding(b approvals.Binding) string {
	if why, ours := h.reviews.Stale(b); ours {
		return why
	}
	if why, ours := h.endorsed.Stale(b); ours {
		return why
	}
	c, ok := h.connections.Connection(b.Connection)
	if !ok || gateway.Target(c) != b.Target {
		return "the connection changed"
	}
	t, ok := h.connections.Tool(b.Connection, b.Tool)
	if !ok || !t.Callable() || t.Digest != b.Definition {
		return "the tool's definition changed"
	}
	for _, r := range b.Rules {
		if h.policy.Rule(r.Name) != r.Digest {
			return "the policy or grant " + r.Name + " changed"
		}
	}
	if len(b.Rules) == 0 { // nothing is held by nothing
		return "the policies changed"
	}
	return ""
}

// signedDecision says what is wrong with an event of a decision when the log is
// verified.
func (h *house) signedDecision(ev audit.Event) string {
	if h.approvals == nil { // verified before the rooms are built: what the log says of itself
		return ""
	}
	return h.approvals.Check(ev)
}

// errNotMade is for an approved call that the line refused.
var errNotMade = fault.New(fault.Denied, "not_made", "the line refused the call when it was made; the log of its run says why")

// makeApproved makes an approved call whose client may be gone. It goes
// through its front the way of every call, from the beginning.
func (h *house) makeApproved(ctx context.Context, r approvals.Request, w approvals.Wire) error {
	if w.Front == reviews.Front {
		return h.reviews.Give(ctx, r)
	}
	if w.Front == endorsements.Front {
		return h.endorsed.Give(ctx, r, w.Body)
	}
	req, err := http.NewRequestWithContext(ctx, w.Method, w.Path, bytes.NewReader(w.Body))
	if err != nil {
		return err
	}
	req.Header, req.RemoteAddr = http.Header(w.Header).Clone(), r.Origin.Remote
	req.Header.Set("User-Agent", r.Origin.Client)
	resume := &gateway.Resumed{Approval: r.ID, Resumed: identity.Resumed{
		Agent: r.Binding.Agent, AgentID: r.Binding.AgentID, Credential: r.Origin.Credential, Kind: r.Origin.Kind, Lineage: r.Origin.Lineage, Run: r.Run, OnBehalfOf: r.Binding.Chain,
	}}
	out := &sink{header: http.Header{}}
	switch w.Front {
	case "mcp":
		h.mcp.Resume(out, req, resume)
	case "llm":
		h.llm.Resume(out, req, resume)
	case "http":
		h.http.Resume(out, req, resume)
	case "retrieve":
		h.retrieval.Resume(out, req, resume)
	}
	now, err := h.approvals.Get(ctx, r.ID)
	switch {
	case err != nil:
		return err
	case now.State != approvals.Approved:
		return nil
	case out.status == http.StatusServiceUnavailable, resume.Later():
		return fault.New(fault.Unavailable, "not_made", "the call could not be made now")
	}
	return errNotMade
}

// sink takes an answer that nobody waits for: it is kept by the line.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(b []byte) (int, error) { return io.Discard.Write(b) }
