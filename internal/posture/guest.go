package posture

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Door is a way in, as an agent meets it.
type Door struct {
	Path       string // /mcp/ledger
	Kind       string // of the connection; mcp for all of them together
	Connection string // empty: all MCP connections together
}

// Doors are the server's doors, reached over the network, and its issuer.
type Doors interface {
	// Try presents a credential at a path, without asking for anything that would
	// be forwarded. refused says that the answer is the refusal of a credential.
	Try(ctx context.Context, path, credential string) (status int, refused bool, err error)
	// Ask asks for a call of a tool as an agent would.
	Ask(ctx context.Context, d Door, tool connections.Tool, credential string) error
	// Exchange gets an access token for a credential (RFC 8693), good at the paths.
	Exchange(ctx context.Context, credential, scope string, paths []string) (string, error)
}

// guest is the throwaway agent of a run. It has no rights at all.
type guest struct {
	agent identity.Agent
	key   string
	began time.Time
}

const (
	guestLife = time.Hour
	guestWhy  = "a throwaway agent by which posture tries the doors; it is removed again"
)

// errNobody says that no throwaway agent can be made.
var errNobody = errors.New("there is no active administrator who could answer for a throwaway agent")

// visit returns the run's throwaway agent, made when it is first needed.
func (p *pass) visit() (*guest, error) {
	if p.guest != nil {
		return p.guest, nil
	}
	p.sweepGuests()
	owner := ""
	for _, u := range p.s.o.Identity.Users() {
		if u.Role == identity.Admin && !u.Disabled {
			owner = u.Name
			break
		}
	}
	if owner == "" {
		return nil, errNobody
	}
	g := &guest{began: p.s.o.Now()}
	name := guestPrefix + strings.ToLower(rand.Text()[:12])
	if _, err := p.s.o.Identity.PutAgent(p.ctx, audit.System, guestWhy, identity.Agent{Name: name, Owner: owner, Stage: identity.Development, Purpose: guestWhy}); err != nil {
		return nil, err
	}
	g.agent, _ = p.s.o.Identity.Agent(name)
	p.guest = g // from here on it is removed again
	var err error
	_, g.key, err = p.s.o.Identity.IssueKey(p.ctx, audit.System, guestWhy, name, guestLife)
	return g, err
}

// leave removes the throwaway agent.
func (p *pass) leave() {
	if p.guest == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), 30*time.Second)
	defer cancel()
	if err := p.s.o.Identity.DeleteAgent(ctx, audit.System, guestWhy, p.guest.agent.Name); err != nil {
		p.s.o.Logger.Error("the throwaway agent of posture could not be removed; the next run does it", "agent", p.guest.agent.Name, "error", err)
	}
	p.guest = nil
	if err := p.s.o.Lifecycle.ForgetDrills(ctx, audit.System, guestWhy, guestPrefix); err != nil {
		p.s.o.Logger.Warn("what the drills left in the lifecycle could not be removed; the next run does it", "error", err)
	}
}

// sweepGuests removes what a run left that was killed.
func (p *pass) sweepGuests() {
	for _, a := range p.s.o.Identity.Agents() {
		if isGuest(a.Name) && a.Purpose == guestWhy {
			if err := p.s.o.Identity.DeleteAgent(p.ctx, audit.System, "left by a run that was interrupted", a.Name); err != nil {
				p.s.o.Logger.Warn("a throwaway agent could not be removed", "agent", a.Name, "error", err)
			}
		}
	}
}

// doors lists the ways in: one for each connection, and that of all MCP
// connections together. Without a connection there is nothing behind any.
func (p *pass) doors() []Door {
	var out []Door
	for _, c := range p.s.o.Connections.Connections() {
		at := c.Kind
		if at == connections.Retrieval {
			at = "retrieve"
		}
		out = append(out, Door{"/" + at + "/" + c.Name, c.Kind, c.Name})
	}
	if slices.ContainsFunc(out, func(d Door) bool { return d.Kind == connections.MCP }) {
		out = append(out, Door{"/mcp", connections.MCP, ""})
	}
	return out
}

// may returns what policy says of the throwaway agent and a tool, in memory.
func (p *pass) may(g *guest, c connections.Connection, t connections.Tool) policy.Decision {
	return p.s.o.Policy.Decide(policy.Request{
		Agent:  policy.Agent{Name: g.agent.Name, Stage: g.agent.Stage, Owner: g.agent.Owner},
		Action: policy.Action{Connection: c.Name, Tool: t.Name, Effect: t.Effect, Kind: c.Kind}, Args: []byte(`{}`),
	})
}
