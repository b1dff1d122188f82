package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/example/courier"
)

// The layers that stop attacks.
const (
	byPolicy   = "policy"      // a Cedar policy forbids it, or holds it for people
	byGrants   = "grants"      // nothing allows it
	byPin      = "pinned tool" // the definition is not the one that a person accepted
	byHost     = "proxy"       // no connection has the host
	byIdentity = "identity"    // the credential is none, or not good there
	byPeople   = "approvals"   // who asked may not approve
	byOther    = "gateway"     // anything else that refused it

	// These do not refuse a call, but see what it did.
	byUndo      = "undo"      // what it did was taken back
	byRelease   = "release"   // the share of a new release was rolled back, by a signal of it
	byDetection = "detection" // a rule saw it in the log, and acted
	byBudget    = "budget"    // a limit was reached
)

// layer is what stopped an attack.
type layer struct {
	Layer  string `json:"layer"`
	By     string `json:"by"`     // the policy's id, or the code of the refusal
	Effect string `json:"effect"` // denied, held, refused; undone, rolled back, locked
}

func (l layer) String() string { return fmt.Sprintf("%s %s (%s)", l.Layer, inert(l.By, 0), l.Effect) }

// result is how an attack went.
type result struct {
	ID      string `json:"id"`
	Tried   string `json:"tried"`
	Stopped bool   `json:"stopped"`
	By      layer  `json:"by,omitzero"`
	Run     string `json:"run,omitzero"`
	Event   string `json:"event,omitzero"` // for policy why and log show
	Behind  *layer `json:"behind,omitzero"`
	// Response is what was done about it, where nothing refused it at once.
	Response *response `json:"response,omitempty"`
	// Layers are all that stop it, in order; when all are taken away it gets
	// through, or there is nothing left that can be taken away.
	Layers []layer `json:"layers"`
	Open   bool    `json:"open_without"` // it got through then: the attack is a real one
}

// attempt is where to look for what came of an attack.
type attempt struct {
	run  string
	tool string // CONNECTION/TOOL that would do the harm
	// refused is set if it was refused before it was a call: how the answer says
	// so, and the type of the event.
	refused *layer
	event   string // of refused, if it is known
	status  string // of the tool meanwhile, if that may have changed
	through bool   // it got through, and is no call that the log would show as made

	response *response // that stopped it, if it was none of its own calls
}

// outcome reads from the log what came of an attempt.
func (r *raid) outcome(ctx context.Context, at attempt) (res result, err error) {
	res.Run = at.run
	if at.through || at.refused != nil {
		res.Stopped, res.Event, res.Response = !at.through, at.event, at.response
		if at.refused != nil {
			res.By = *at.refused
		}
		return res, nil
	}
	err = await(ctx, at.run+" to show "+at.tool+" in the log", func() (bool, error) {
		entries, _, err := r.c.Run(ctx, at.run)
		if err != nil || !read(&res, at.tool, entries) {
			return false, err
		}
		// What nobody accepted is no tool to which a grant could be given.
		if at.status == "new" && res.By.Layer == byGrants {
			res.By.Layer, res.By.By = byPin, "tool_not_accepted"
		}
		return true, nil
	})
	return res, err
}

// read looks for the last call of the tool, or for what was refused before it
// was known which tool it would be.
func read(res *result, tool string, entries []client.Entry) (found bool) {
	for _, e := range entries {
		ev := e.Event
		if tool != "" && toolName(ev) != tool && !(ev.Type == "call.refused" && ev.Connection == "") {
			continue
		}
		effect := map[string]string{"call.denied": "denied", "call.held": "held", "call.refused": "refused", "call.intent": "made"}[ev.Type]
		if effect == "" {
			continue
		}
		found = true
		res.Event, res.Stopped, res.By = ev.ID, effect != "made", layer{}
		if res.Stopped {
			res.By = layerOf(ev, effect)
		}
	}
	return found
}

// codes say which layer a refusal is of, whatever policy said.
var codes = map[string]string{"unknown_tool": byGrants, "unknown_connection": byGrants, "tool_changed": byPin, "tool_not_accepted": byPin, "host_refused": byHost,
	"credential_invalid": byIdentity, "approval_impossible": byPeople, "approval_denied": byPeople}

func layerOf(ev client.Event, effect string) layer {
	code, _ := refusal(ev.Detail)
	d := ev.Decision
	if d != nil && d.Code != "" {
		code = d.Code
	}
	if by := codes[code]; by != "" {
		return layer{by, code, effect}
	}
	switch {
	case d != nil && len(d.Policies) > 0:
		return layer{byPolicy, d.Policies[0], effect}
	case d != nil && strings.Contains(d.Reason, "on whose behalf this is, may not make this call itself"):
		return layer{byGrants, "on behalf of an agent without", effect}
	case code == "policy_denied": // and no policy did
		return layer{byGrants, "unknown_tool", effect}
	}
	return layer{byOther, or(code, "unknown"), effect}
}

// errFirm says that a layer cannot be taken away.
var errFirm = errors.New("this layer cannot be taken away")

// lower takes away what stopped an attack. What it did is undone by restore.
func (r *raid) lower(ctx context.Context, l layer, as assault) error {
	switch l.Layer {
	case byPolicy:
		return r.dropPolicy(ctx, l.By)
	case byGrants:
		return r.grantAll(ctx, as)
	case byPin:
		return r.acceptTool(ctx, as.tool)
	case byHost:
		return r.openHost(ctx)
	case byIdentity:
		r.insider = true
		r.undo = append(r.undo, func(context.Context) error { r.insider = false; return nil })
		return nil
	case byUndo:
		return r.declareNoUndo(ctx, as.tool)
	case byRelease:
		return r.ignore(l.By)
	case byDetection:
		return r.silence(ctx, l.By)
	case byBudget:
		return r.dropBudget(ctx, l.By)
	}
	return errFirm
}

// restore undoes every lower, the last first.
func (r *raid) restore(ctx context.Context) error {
	var errs []error
	for i := len(r.undo) - 1; i >= 0; i-- {
		errs = append(errs, r.undo[i](ctx))
	}
	r.undo = nil
	return errors.Join(errs...)
}

// dropPolicy takes one policy out of its file.
func (r *raid) dropPolicy(ctx context.Context, id string) error {
	rule := regexp.MustCompile(`(?s)@id\("` + regexp.QuoteMeta(id) + `"\).*?[)}];[ \t]*\n`)
	all, err := r.c.Policies(ctx)
	if err != nil {
		return err
	}
	for _, listed := range all {
		p, err := r.c.Policy(ctx, listed.Name)
		if err != nil {
			return err
		}
		rest := rule.ReplaceAllString(p.Text, "")
		if rest == p.Text {
			continue
		}
		r.undo = append(r.undo, func(ctx context.Context) error { _, err := r.c.PutPolicy(ctx, p.Name, p.Text); return err })
		if !strings.Contains(rest, "@id(") {
			return r.c.DeletePolicy(ctx, p.Name)
		}
		_, err = r.c.PutPolicy(ctx, p.Name, rest)
		return err
	}
	return fmt.Errorf("%w: no file has the policy %q", errFirm, id)
}

// grantAll lets every agent of the attack do all that the connection can, as
// somebody does who does not want to be asked again.
func (r *raid) grantAll(ctx context.Context, as assault) error {
	connection, _, _ := strings.Cut(as.tool, "/")
	for _, agent := range as.agents {
		name := "attack-" + agent
		if _, err := r.c.PutGrant(ctx, name, client.GrantSpec{Agent: agent, Connection: connection, Tools: []string{"*"}, Expires: time.Now().Add(time.Hour)}); err != nil {
			return err
		}
		r.undo = append(r.undo, func(ctx context.Context) error { return r.c.RevokeGrant(ctx, name) })
	}
	return nil
}

// acceptTool accepts a tool as it is now, as a person in a hurry would.
func (r *raid) acceptTool(ctx context.Context, full string) error {
	connection, tool, _ := strings.Cut(full, "/")
	accept := func(ctx context.Context) error {
		d, err := r.c.Tool(ctx, connection, tool)
		if err != nil || d.DriftDigest == "" && d.Status == "pinned" || d.Status == "gone" {
			return err
		}
		_, err = r.c.AcceptTool(ctx, connection, tool, or(d.DriftDigest, d.Digest))
		return err
	}
	// The carrier is honest between attacks, so that there is nothing to accept.
	if err := r.turn(ctx, r.mood); err != nil {
		return err
	}
	r.undo = append(r.undo, accept)
	return errors.Join(accept(ctx), r.turn(ctx, ""))
}

// openHost makes the stranger's host a connection.
func (r *raid) openHost(ctx context.Context) error {
	text := "kind: Connection\nname: " + collector + "\nspec:\n  kind: http\n  url: https://" + collectorHost + "\n  auth: none\n  owner: pat\n  operations:\n    collect: GET /collect?d\n"
	out, err := r.c.Apply(ctx, []client.NamedText{{Name: "collector.yaml", Text: text}}, nil, false)
	if err == nil && len(out.Problems) > 0 {
		err = errors.New(out.Problems[0].String())
	}
	if err != nil {
		return err
	}
	r.undo = append(r.undo, func(ctx context.Context) error { return r.c.DeleteConnection(ctx, collector) })
	return nil
}

// turn makes the carrier's server what mood says, and has its tools looked at
// again, as is done by the clock.
func (r *raid) turn(ctx context.Context, mood string) error {
	file := filepath.Join(r.courier(), courier.Hostile)
	var err error
	if mood == "" {
		if err = os.Remove(file); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	} else {
		r.mood = mood
		err = os.WriteFile(file, []byte(mood), 0o600)
	}
	if err != nil {
		return err
	}
	_, err = r.c.RefreshConnection(ctx, "courier")
	return err
}
