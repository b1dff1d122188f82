package server

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/tokens"
)

// postureClient is what our own probes call themselves.
const postureClient = "countersign posture"

// buildPosture builds the room of evidence, which reads all others.
func (h *house) buildPosture(ctx context.Context, log *slog.Logger) error {
	h.inventory = inventory.New(inventory.Options{DB: h.db, Identity: h.identity, Connections: h.connections, Policy: h.policy, Secrets: h.secrets, Findings: h.findings,
		Users: h.tokens.SignedIn, Log: h.log, Priced: h.priced, Now: time.Now, Logger: log, Probe: posture.IsProbe,
		Ignore: func(ev audit.Event) bool { return posture.IsProbe(ev.Agent) || ours(ev.Remote, ev.Client) }})
	err := h.inventory.Start(ctx)
	if err != nil {
		return err
	}
	h.onClose("inventory", h.inventory.Stop)
	h.posture, err = posture.New(posture.Options{
		DB: h.db, Log: h.log, Identity: h.identity, Connections: h.connections, Tools: tools{h.connections}, Policy: h.policy, Secrets: h.secrets, Tokens: h.tokens, Locks: h.locks,
		Approvals: h.approvals, Inventory: h.inventory, Findings: h.findings, Lifecycle: h.lifecycle, Doors: postureDoors{frontDoors{h}}, Logger: log,
		Reviews: h.reviewed, Releases: h.promptsPinned,
		Sealed: h.sealing, Deliveries: h.deliveries, Prove: h.proveEvent, Derive: h.secrets.Derive, Version: h.version, Known: h.knownSecrets, Plant: h.plant, Keep: h.cfg.Posture.Keep,
	})
	if err != nil {
		return err
	}
	if err := h.posture.Start(ctx); err != nil {
		return err
	}
	h.onClose("posture", h.posture.Stop)
	return nil
}

// priced reports whether a price names a model.
func (h *house) priced(model string) bool { return h.budgets.Prices().Knows(model) }

// reviewed says when grants were reviewed, and which agents hold duties that
// policies want apart; nil if none do.
func (h *house) reviewed(ctx context.Context) (at map[string]time.Time, conflicts map[string][]string, err error) {
	if h.policy.Parts() {
		conflicts = map[string][]string{}
		for _, c := range h.policy.Conflicts() {
			conflicts[c.Agent] = append(conflicts[c.Agent], c.String())
		}
	}
	at, err = h.reviews.Reviewed(ctx)
	return at, conflicts, err
}

// askedWithin is how far back the last question of an agent to a model is looked for.
const askedWithin = 30 * 24 * time.Hour

// promptsPinned says of each agent outside development that asked a model whether a
// release pinned what the model was told: the line writes the release that bound a
// call into its intent, and refuses prompts other than those that it pins.
func (h *house) promptsPinned(ctx context.Context) ([]posture.Pinned, error) {
	var out []posture.Pinned
	for _, a := range h.identity.Agents() {
		if a.Stage == "development" || !a.Retired.IsZero() {
			continue
		}
		asked, number, err := h.lastAsked(ctx, a.Name)
		if err != nil {
			return nil, err
		}
		if asked == "" {
			continue
		}
		row := posture.Pinned{Agent: a.Name, Bad: "no release pins its system prompt; countersign release create " + a.Name + " --prompt FILE, and promote it", Events: []string{asked}}
		if number > 0 {
			r, err := h.releases.Get(ctx, a.Name, number)
			if err != nil {
				return nil, err
			}
			if len(r.Prompts) > 0 {
				row.Approved, row.Running, row.Bad = r.Digest, r.Digest, ""
			}
		}
		out = append(out, row)
	}
	return out, nil
}

// lastAsked returns the event of an agent's last call to a model, and the release
// that bound it, 0 if none did.
func (h *house) lastAsked(ctx context.Context, agent string) (event string, release int64, err error) {
	recs, err := h.log.List(ctx, audit.Query{Agent: agent, Types: []audit.Type{audit.CallIntent}, Since: time.Now().Add(-askedWithin), Limit: 1000})
	if err != nil {
		return "", 0, err
	}
	for _, r := range recs {
		c, ok := h.connections.Connection(r.Event.Connection)
		if !ok || c.Kind != connections.LLM {
			continue
		}
		var detail struct {
			Release int64 `json:"release"`
		}
		if len(r.Event.Detail) > 0 {
			err = json.Unmarshal(r.Event.Detail, &detail)
		}
		return r.Event.ID, detail.Release, err
	}
	return "", 0, nil
}

func (h *house) sealing(ctx context.Context) (posture.Sealing, error) {
	st, err := h.seal.Status(ctx)
	s := posture.Sealing{Size: st.Size, Behind: st.Behind, Checkpoint: st.Checkpoint, Problem: st.Blocked}
	if s.Problem == "" {
		s.Problem = st.Error
	}
	return s, err
}

func (h *house) deliveries(ctx context.Context) ([]posture.Delivery, error) {
	all, err := h.export.Status(ctx)
	out := make([]posture.Delivery, len(all))
	for i, t := range all {
		out[i] = posture.Delivery{Name: t.ID, Behind: t.Behind, Since: t.Since, Error: t.Error}
	}
	return out, err
}

func (h *house) proveEvent(ctx context.Context, event string) ([]byte, error) {
	f, err := h.seal.Prove(ctx, event)
	if err != nil {
		return nil, err
	}
	return f.Encode()
}

// knownSecrets names the secrets whose values are in a text.
func (h *house) knownSecrets(text []byte) []string {
	var out []string
	for _, f := range h.scanner.Scan(text) {
		if f.Name != "" {
			out = append(out, f.Name)
		}
	}
	return out
}

func (h *house) plant(name string, value []byte) {
	if value == nil {
		h.scanner.Known().Remove(name)
		return
	}
	h.scanner.Known().Add(name, value)
}

// ours reports whether a refused caller is a probe of this machine's own. Who
// can call from the machine itself can look like one.
func ours(remote, client string) bool {
	a, err := netip.ParseAddr(remote)
	if err != nil || client != postureClient && client != "countersign decommission" {
		return false
	}
	if a.Unmap().IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	for _, n := range own {
		if p, perr := netip.ParsePrefix(n.String()); perr == nil && p.Addr().Unmap() == a.Unmap() {
			return err == nil
		}
	}
	return false
}

// postureDoors are the doors of this replica, over the network, for posture.
type postureDoors struct{ frontDoors }

// Try implements posture.Doors.
func (d postureDoors) Try(ctx context.Context, path, credential string) (int, bool, error) {
	return d.frontDoors.try(ctx, path, credential, postureClient)
}

// Exchange implements posture.Doors.
func (d postureDoors) Exchange(ctx context.Context, credential, scope string, paths []string) (string, error) {
	resources := make([]string, len(paths))
	for i, p := range paths {
		resources[i] = d.h.tokens.Issuer() + p
	}
	t, err := d.h.tokens.Exchange(ctx, tokens.Subject{Token: credential}, tokens.Ask{Resources: resources, Scope: scope, Client: postureClient})
	return t.Token, err
}

// Ask implements posture.Doors. What it asks for is not allowed to the caller;
// what came of it is in the log.
func (d postureDoors) Ask(ctx context.Context, door posture.Door, tool connections.Tool, credential string) error {
	_, err := d.ask(ctx, door, tool, credential, postureClient)
	return err
}

// ask is Ask for a client of this name, and returns the status of the answer.
func (d postureDoors) ask(ctx context.Context, door posture.Door, tool connections.Tool, credential, client string) (int, error) {
	at := d.h.front.Load()
	if at == nil {
		return 0, errNotOpen
	}
	method, path, body := d.wire(door, tool)
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, *at+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+credential)
	req.Header.Set("User-Agent", client)
	req.Header.Set("Accept", "application/json, text/event-stream")
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := (&http.Transport{Proxy: nil, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("no answer at %s", path)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode >= 500 {
		return resp.StatusCode, fmt.Errorf("%s answers %d", path, resp.StatusCode)
	}
	return resp.StatusCode, nil
}

// wire is the request for a tool, as a client of its kind would make it.
func (d postureDoors) wire(door posture.Door, tool connections.Tool) (method, path string, body []byte) {
	const says = "countersign-posture-probe"
	encode := func(v any) []byte {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return []byte(`{}`)
		}
		return b
	}
	c, _ := d.h.connections.Connection(door.Connection)
	message := []any{map[string]any{"role": "user", "content": says}}
	switch c.Kind {
	case connections.MCP:
		return http.MethodPost, door.Path, encode(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{"name": tool.Name, "arguments": map[string]any{}}})
	case connections.LLM:
		if c.Dialect == connections.Anthropic {
			return http.MethodPost, door.Path + "/v1/messages", encode(map[string]any{"model": says, "max_tokens": 1, "messages": message})
		}
		return http.MethodPost, door.Path + "/v1/chat/completions", encode(map[string]any{"model": says, "messages": message})
	case connections.Retrieval:
		return http.MethodPost, door.Path, encode(map[string]any{"query": says})
	}
	method, path = d.operation(c, tool)
	return method, door.Path + path, nil
}

// operation is the request of a tool of an HTTP connection, with a value of ours
// for every parameter of its path.
func (d postureDoors) operation(c connections.Connection, tool connections.Tool) (method, path string) {
	if c.Dialect == connections.Git {
		return http.MethodGet, "/countersign-posture-probe/info/refs?service=git-upload-pack"
	}
	op, err := operation.Read(tool.Definition)
	if err != nil {
		return http.MethodGet, "/countersign-posture-probe"
	}
	return op.Method, parameters.ReplaceAllString(op.Path, "1")
}

// parameters are those of a path: {id}, {+path}.
var parameters = regexp.MustCompile(`\{[^}]*\}`)
