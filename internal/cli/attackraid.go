package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/example/agents"
)

// raid is a business under attack.
type raid struct {
	*showcase
	undo    []func(context.Context) error
	mood    string          // what the carrier's server was last turned to
	insider bool            // the attacker has what identity would deny: a living credential, a person's session
	blind   map[string]bool // signals by which no canary is judged
}

// assault is one attack.
type assault struct {
	id, tried string
	tool      string   // CONNECTION/TOOL that would do the harm
	agents    []string // that take part
	try       func(context.Context, *raid, assault) (attempt, error)
	after     bool // nothing refuses it at once: what stops it sees what it did
}

// all makes every attack of a list once.
func (r *raid) all(ctx context.Context, list []assault, progress func(string)) ([]result, error) {
	var out []result
	for _, as := range list {
		progress(as.id)
		res, err := r.strike(ctx, as)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", as.id, err)
		}
		out = append(out, res)
	}
	return out, nil
}

// mostStrikes is how often an attack is tried that was not made.
const mostStrikes = 3

// strike makes one attack and says what came of it. One that the log does not
// show, because the server was too busy to take its calls, is made again.
func (r *raid) strike(ctx context.Context, as assault) (res result, err error) {
	for range mostStrikes {
		var at attempt
		if at, err = as.try(ctx, r, as); err != nil {
			return result{}, err
		}
		if res, err = r.outcome(ctx, at); !errors.Is(err, errWaited) {
			break
		}
	}
	res.ID, res.Tried = as.id, as.tried
	return res, err
}

// mostLayers bounds how many layers are taken away.
const mostLayers = 6

// behind makes each attack again, without what stopped it, and again, until it
// gets through; found gets the layers.
func (r *raid) behind(ctx context.Context, list []assault, found []result, progress func(string)) error {
	for i, as := range list {
		progress(as.id)
		layers, open, err := r.peel(ctx, as)
		if err = errors.Join(err, r.restore(context.WithoutCancel(ctx))); err != nil {
			return fmt.Errorf("%s: %w", as.id, err)
		}
		res := &found[i]
		res.Layers, res.Open = layers, open
		if at := slices.Index(layers, res.By); res.Stopped && at >= 0 && at+1 < len(layers) {
			res.Behind = &layers[at+1]
		}
	}
	return nil
}

// peel returns what stops an attack, the first layer first, and whether it gets
// through without them.
func (r *raid) peel(ctx context.Context, as assault) (layers []layer, open bool, err error) {
	for len(layers) < mostLayers {
		res, err := r.strike(ctx, as)
		if err != nil || !res.Stopped {
			return layers, !res.Stopped && err == nil, err
		}
		if slices.Contains(layers, res.By) {
			return layers, false, fmt.Errorf("%s was taken away and stopped it all the same", res.By)
		}
		layers = append(layers, res.By)
		if err := r.lower(ctx, res.By, as); err != nil {
			if errors.Is(err, errFirm) {
				err = nil
			}
			return layers, false, err
		}
	}
	return layers, false, nil
}

// captive is an agent that has been taken over: a run with its credential.
type captive struct {
	run, token string
	hands      *agents.Hands
	end        func()
}

// capture starts a run of the agent, of nobody or on behalf of a person, and
// takes its tools.
func (r *raid) capture(ctx context.Context, agent, user string, servers ...string) (*captive, error) {
	f := runFlags{agent: agent, ttl: 10 * time.Minute}
	b, err := r.begin(ctx, task{agent: agent, user: user}, &f)
	if err != nil {
		return nil, err
	}
	c := &captive{run: b.run.Run, token: b.run.Token}
	c.end = func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = b.end(end) // it ends by itself
	}
	if len(servers) > 0 {
		if err := c.open(ctx, r.c.URL(), servers...); err != nil {
			c.end()
			return nil, err
		}
	}
	return c, nil
}

func (c *captive) open(ctx context.Context, url string, servers ...string) (err error) {
	c.hands, err = agents.Open(ctx, agents.Env{MCPURL: url + "/mcp", Token: c.token}, servers...)
	return err
}

func (c *captive) close() {
	if c.hands != nil {
		c.hands.Close()
	}
	c.end()
}

// calls makes calls with the tools of a captive, the last of which does the
// harm: each is a tool and its arguments.
func (r *raid) calls(ctx context.Context, agent, user string, as assault, calls ...move) (attempt, error) {
	var servers []string
	for _, k := range calls {
		if s, _, _ := strings.Cut(k.tool, "/"); !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	c, err := r.capture(ctx, agent, user, servers...)
	if err != nil {
		return attempt{}, err
	}
	defer c.close()
	read := ""
	for _, k := range calls {
		text, _ := c.hands.Call(ctx, strings.Replace(k.tool, "/", "__", 1), k.args(read))
		read = text
	}
	return attempt{run: c.run, tool: as.tool}, nil
}

// move is one call of an attack; args gets what the call before it answered.
type move struct {
	tool string
	args func(read string) map[string]any
}

func with(args map[string]any) func(string) map[string]any {
	return func(string) map[string]any { return args }
}

// refusedBy says what an API answered to a credential that is none there, with
// the event that says so in the log.
func (r *raid) refusedBy(ctx context.Context, err error, since time.Time) (attempt, error) {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return attempt{}, err
	}
	at := attempt{refused: &layer{byIdentity, e.Code, "refused"}}
	// Refusals are recorded behind the answer. That one cannot be found changes
	// nothing of what the answer said.
	ev, err := r.event(ctx, "type:auth.refused since:"+since.UTC().Format(time.RFC3339), since)
	if errors.Is(err, errWaited) {
		err = nil
	}
	at.event = ev.ID
	return at, err
}
