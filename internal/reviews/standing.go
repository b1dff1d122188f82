package reviews

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// RuleStanding is of findings about grants that stand without an end.
const RuleStanding = "grant.standing"

// standingFor is for how long a right that was there already may stand before its
// finding is grave.
const standingFor = 90 * day

// ends reports whether a grant has an end that is one: in as long as an exception
// is for at most.
func (s *Service) ends(g policy.Grant) bool {
	return !g.Expires.IsZero() && g.Expires.Sub(s.now()) <= longestDue
}

// inProduction reports whether an agent is where rights must not stand.
func inProduction(a identity.Agent) bool {
	return a.Stage == identity.Production && a.Retired.IsZero()
}

// answered reports whether an exception is in force, if its owner is u.
func (s *Service) answered(e *Exception, u identity.User) bool {
	return s.now().Before(e.Until) && !u.Disabled
}

// CheckGrantTx refuses, with policy.ErrStanding, a grant that would let an agent in
// production do without an end what cannot be undone, unless an exception is for
// it. Everything is seen as the change leaves it.
func (s *Service) CheckGrantTx(ctx context.Context, tx *audit.Tx, g policy.Grant) error {
	if s.ends(g) {
		return nil
	}
	a, err := s.o.Identity.AgentTx(ctx, tx, g.Agent)
	if errors.Is(err, identity.ErrNotFound) || err == nil && !inProduction(a) {
		return nil
	}
	if err != nil {
		return err
	}
	final, err := s.standsTx(ctx, tx, g)
	if err != nil || len(final) == 0 {
		return err
	}
	what := fmt.Sprintf("--agent %s --connection %s --tool %s", g.Agent, g.Connection, shellWord(strings.Join(g.Tools, ",")))
	if g.When != "" {
		what += " --when " + shellWord(g.When)
	}
	return policy.ErrStanding.Say(`the grant %s would let %s, in production, do without an end within a year what cannot be undone: %s.
1. Give it an end: countersign grant add %s %s --expires 90d (in files: expires: 90d)
2. Or say first who answers for it, why and until when: countersign grant exception add %s %s --owner USER --until 90d --reason TEXT (in files: exception: {owner: USER, until: 90d, reason: TEXT})
3. Or have it asked for when it is needed: countersign grant request
A tool of which nobody said that it can be undone counts as one that cannot: countersign tool effect %s write`,
		g.Name, g.Agent, shortList(g.Connection, final), g.Name, what, g.Name, what, g.Connection+"/"+final[0])
}

// shortList names tools of a connection, the first few.
func shortList(connection string, tools []string) string {
	const most = 5
	out := make([]string, 0, most)
	for _, t := range tools[:min(len(tools), most)] {
		out = append(out, connection+"/"+t)
	}
	text := strings.Join(out, ", ")
	if len(tools) > most {
		text += fmt.Sprintf(" and %d more", len(tools)-most)
	}
	return text
}

// shellWord quotes a text so that a command can be copied.
func shellWord(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,/", r)
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// standsTx returns the irreversible tools that a grant without an end reaches, none
// if an exception is for it.
func (s *Service) standsTx(ctx context.Context, tx *audit.Tx, g policy.Grant) ([]string, error) {
	tools, err := s.o.Connections.ToolsTx(ctx, tx, g.Connection)
	if err != nil {
		return nil, err
	}
	final := irreversible(tools, g.Tools)
	if len(final) == 0 {
		return nil, nil
	}
	known, err := readExceptions(ctx, tx, ` WHERE grant_name = $1`, g.Name)
	if err != nil {
		return nil, err
	}
	for i := range known {
		u, err := s.o.Identity.UserTx(ctx, tx, known[i].Owner)
		if err != nil && !errors.Is(err, identity.ErrNotFound) {
			return nil, err
		}
		if err == nil && known[i].Covers(g) && s.answered(&known[i], u) {
			return nil, nil
		}
	}
	return final, nil
}

// irreversible names those of a grant's tools that cannot be undone.
func irreversible(tools []connections.Tool, names []string) (out []string) {
	for _, t := range meant(tools, names) {
		if t.Effect == connections.Irreversible {
			out = append(out, t.Name)
		}
	}
	slices.Sort(out)
	return out
}

// CheckAgentTx refuses, at the end of the change, that an agent comes to production
// with grants that CheckGrantTx would refuse there: they may be changed on the way.
func (s *Service) CheckAgentTx(ctx context.Context, tx *audit.Tx, a identity.Agent) error {
	if inProduction(a) {
		tx.Finally(func() error { return s.checkPromoted(ctx, tx, a.Name) })
	}
	return nil
}

func (s *Service) checkPromoted(ctx context.Context, tx *audit.Tx, agent string) error {
	a, err := s.o.Identity.AgentTx(ctx, tx, agent)
	if errors.Is(err, identity.ErrNotFound) || err == nil && !inProduction(a) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := s.o.Policy.GrantsTx(ctx, tx, agent)
	if err != nil {
		return err
	}
	for _, g := range all {
		if err := s.CheckGrantTx(ctx, tx, g); err != nil {
			return err
		}
	}
	return nil
}

// stands reports whether a grant is one that stands, as this replica sees it.
func (s *Service) stands(g policy.Grant, known []Exception) bool {
	a, ok := s.o.Identity.Agent(g.Agent)
	if !ok || !inProduction(a) || s.ends(g) || len(irreversible(s.o.Connections.Tools(g.Connection), g.Tools)) == 0 {
		return false
	}
	return !s.excepted(g, known)
}

// meant tells for which grants without an end an exception is in force.
func (s *Service) meant(ctx context.Context) (func(policy.Grant) bool, error) {
	known, err := s.Exceptions(ctx)
	return func(g policy.Grant) bool { return s.excepted(g, known) }, err
}

// excepted reports whether an exception is in force for a grant.
func (s *Service) excepted(g policy.Grant, known []Exception) bool {
	return slices.ContainsFunc(known, func(e Exception) bool {
		u, ok := s.o.Identity.User(e.Owner)
		return ok && e.Covers(g) && s.answered(&e, u)
	})
}

// checkKept refuses to keep a grant that stands: what is kept is given for longer.
func (s *Service) checkKept(ctx context.Context, it *Item) error {
	if it.Subject.Kind != Grant {
		return nil
	}
	g, err := s.o.Policy.Grant(ctx, it.Subject.Name)
	if errors.Is(err, policy.ErrNoGrant) {
		return nil
	}
	if err != nil {
		return err
	}
	known, err := s.Exceptions(ctx)
	if err != nil || !s.stands(g, known) {
		return err
	}
	return policy.ErrStanding.Say("the grant %s lets %s, in production, do without an end within a year what cannot be undone, so it cannot be kept as it is. Give it an end (countersign grant add %s … --expires 90d) and decide about that, or say first who answers for it: countersign grant exception add %s --owner USER --until 90d --reason TEXT", g.Name, g.Agent, g.Name, g.Name)
}

// lookAtStanding opens a finding for each standing right without an exception, with
// the day until which it may stand; when that is over, or an exception is, the
// finding is grave. It closes those of rights that are none any more. Nothing is
// taken away: what was given before such grants were refused goes on working.
func (s *Service) lookAtStanding(ctx context.Context) error {
	all, err := s.o.Policy.Grants(ctx, "")
	if err != nil {
		return err
	}
	known, err := s.Exceptions(ctx)
	if err != nil {
		return err
	}
	have, err := s.o.Findings.List(ctx, findings.Query{Rule: RuleStanding, Status: findings.Open})
	if err != nil {
		return err
	}
	gone := map[string]bool{}
	open := map[string]findings.Finding{}
	for _, f := range have {
		gone[f.Object], open[f.Object] = f.Object != findings.OverflowObject, f
	}
	var tell []findings.Finding
	for _, g := range all {
		if !s.stands(g, known) {
			continue
		}
		object := "grant/" + g.Name
		gone[object] = false
		since := s.now()
		old, there := open[object]
		if there {
			since = old.Opened
		}
		if f := standing(g, s.deadline(g, known, since), s.now()); !there || old.Severity != f.Severity || old.Detail != f.Detail {
			tell = append(tell, f)
		}
	}
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		for _, f := range tell {
			if err := s.o.Findings.OpenTx(ctx, tx, f); err != nil {
				return err
			}
		}
		for object, over := range gone {
			if !over {
				continue
			}
			if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object, "it has an end, an exception, or is gone", RuleStanding); err != nil {
				return err
			}
		}
		return nil
	})
}

// deadline is until when a right may stand that stands since a time: as long as its
// exception was for, if it had one.
func (s *Service) deadline(g policy.Grant, known []Exception, since time.Time) time.Time {
	for i := range known {
		if known[i].Covers(g) {
			if known[i].Until.Before(s.now()) {
				return known[i].Until
			}
			return s.now() // its owner has left
		}
	}
	return since.Add(standingFor)
}

func standing(g policy.Grant, deadline, now time.Time) findings.Finding {
	f := findings.Finding{Rule: RuleStanding, Severity: findings.Medium, Object: "grant/" + g.Name, Agent: g.Agent, Title: "The grant " + g.Name + " lets an agent in production do what cannot be undone, without an end"}
	until := "It was given before such grants were refused, or before it was known what its tools do, and goes on working. Decide until " + deadline.UTC().Format(time.DateOnly) + ". "
	if !now.Before(deadline) {
		f.Severity, until = findings.High, "The time to decide, or that of its exception, is over, or who answered for it has left. It goes on working until somebody decides. "
	}
	f.Detail = until + "Give it an end (countersign grant add " + g.Name + " … --expires 90d), have it asked for when it is needed (countersign grant request), or say who answers for it, why and until when: countersign grant exception add " + g.Name + " --owner USER --until 90d --reason TEXT"
	return f
}
