package server

import (
	"context"
	"encoding/json/v2"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/tokens"
)

// buildReviews builds the room in which people keep or revoke what was given.
func (h *house) buildReviews(_ context.Context, log *slog.Logger) error {
	var err error
	h.reviews, err = reviews.New(reviews.Options{
		DB: h.db, Log: h.log, Watch: h.watch, Identity: h.identity, Policy: h.policy, Connections: h.connections, Secrets: h.secrets, Tokens: h.tokens, Locks: h.locks, Findings: h.findings, Approvals: h.approvals,
		Doors: reviewDoors{postureDoors{frontDoors{h}}}, Rotate: h.rotateReviewed, Prove: h.proveEvent, Tell: h.tellReviewers, Uses: h.grantUses, Logger: log,
	})
	return err
}

func (h *house) grantUses(ctx context.Context) (map[string]reviews.Use, error) {
	all, _, err := h.use.Grants(ctx, "")
	out := make(map[string]reviews.Use, len(all))
	for _, g := range all {
		out[g.Grant] = reviews.Use{Watched: g.Watched, Last: g.LastAllowed}
	}
	return out, err
}

// rotateReviewed replaces a secret's value as is usual: what uses it goes on.
func (h *house) rotateReviewed(ctx context.Context, by audit.Actor, reason, secret string) error {
	_, err := h.rotation.Rotate(ctx, by, reason, secret, false)
	return err
}

func (h *house) tellReviewers(ctx context.Context, tx *audit.Tx, n reviews.Notice) error {
	names := make([]string, len(n.People))
	for i, p := range n.People {
		names[i] = p.Name
	}
	return h.channels.Say(ctx, tx, n.Text, names)
}

// reviewClient is what the probes of reviews call themselves.
const reviewClient = "countersign review"

// reviewDoors are the doors of this replica, over the network, for reviews.
type reviewDoors struct{ postureDoors }

// errNoTool is for a probe of what is not there any more.
var errNoTool = fault.New(fault.NotFound, "tool_not_found", "the tool is not there any more")

// Ask implements reviews.Doors.
func (d reviewDoors) Ask(ctx context.Context, connection, tool, credential string) (int, error) {
	c, ok := d.h.connections.Connection(connection)
	t, there := d.h.connections.Tool(connection, tool)
	if !ok || !there {
		return 0, errNoTool
	}
	path := map[string]string{"retrieval": "retrieve"}[c.Kind]
	if path == "" {
		path = c.Kind
	}
	return d.ask(ctx, posture.Door{Path: "/" + path + "/" + c.Name, Connection: c.Name}, t, credential, reviewClient)
}

// Present implements reviews.Doors.
func (d reviewDoors) Present(ctx context.Context, token, agent, credential string) (int, error) {
	at := d.h.front.Load()
	if at == nil {
		return 0, errNotOpen
	}
	q := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {token}, "client_id": {agent}}
	if credential != "" {
		q = url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token}, "subject_token_type": {tokens.TypeID},
			"actor_token": {credential}, "actor_token_type": {tokens.WantAccess}, "client_id": {agent}}
	}
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, *at+"/oauth2/token", strings.NewReader(q.Encode()))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("User-Agent", reviewClient)
	resp, err := (&http.Transport{Proxy: nil, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, errors.New("no answer at the token service")
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, nil
}

// wishes are the grants that agents ask for, by their tool.
type wishes struct{ h *house }

// Offered implements mcp.Grants.
func (w wishes) Offered(ctx context.Context) bool { return w.h.reviews.Offers(ctx) }

// Ask implements mcp.Grants.
func (w wishes) Ask(ctx context.Context, who identity.Caller, in gateway.Incoming, ask mcp.GrantAsk) (string, []byte, error) {
	host, _, err := net.SplitHostPort(in.Remote)
	if err != nil {
		host = in.Remote
	}
	origin := approvals.Origin{Credential: who.Credential.ID, Kind: who.Credential.Kind, Lineage: who.Lineage, Remote: host, Client: in.Client, Front: reviews.Front}
	text, g, err := w.h.reviews.AskFor(ctx, who, origin, ask.ID, ask.Reason, reviews.Wish{Connection: ask.Connection, Tools: ask.Tools, For: ask.For})
	if err != nil {
		return "", nil, err
	}
	// Who approves, and what others said, is not the agent's to know.
	b, err := json.Marshal(map[string]any{"id": g.ID, "state": g.State, "url": g.URL, "grant": g.Grant, "expires": g.Expires, "decide_by": g.DecideBy}, json.Deterministic(true))
	return text, b, err
}
