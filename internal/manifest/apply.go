package manifest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/secrets"
)

// refusedChange is a room's refusal of one change.
type refusedChange struct {
	change Change
	cause  error
}

func (e *refusedChange) Error() string { return e.change.ID + ": " + e.cause.Error() }
func (e *refusedChange) Unwrap() error { return e.cause }

// firstKinds and secondKinds are the two halves of an apply with new connections.
var (
	firstKinds  = []string{KindUser, KindTeam, KindGroup, KindAgent, KindTrust, KindConnection, KindChannel, KindSecret}
	secondKinds = []string{KindTool, KindBudget, KindDetection, KindGrant, KindPolicy}
)

// apply makes the changes of some kinds in one transaction: policies to be
// deleted go first, so that their ids are free; then everything is put; then
// the rest is deleted, what depends before what it depends on.
func (r *run) apply(ctx context.Context, p *plan, kinds []string) error {
	var todo []Change
	for _, c := range p.changes {
		if slices.Contains(kinds, c.Kind) && (c.Op == Create || c.Op == Update || c.Op == None && r.valued(c)) {
			todo = append(todo, c)
		}
	}
	dropFirst, dropLast := p.deletions(kinds)
	todo = slices.Concat(dropFirst, todo, dropLast)
	if len(todo) == 0 {
		return nil
	}
	rotated := map[string]bool{}
	err := r.s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		clear(rotated)
		for _, c := range todo {
			changed, err := r.one(ctx, tx, c)
			if err != nil {
				return &refusedChange{c, err}
			}
			if changed && c.Kind == KindSecret && c.Op != Create && r.valued(c) {
				rotated[c.Name] = true
			}
		}
		if r.dry {
			if err := tx.Finish(); err != nil {
				return err
			}
			return errUndone
		}
		return nil
	})
	if err != nil && !errors.Is(err, errUndone) {
		return err
	}
	p.rotated(rotated)
	if r.dry {
		return nil
	}
	if err := r.s.o.Watch.Poll(ctx); err != nil {
		// The change stands; the watcher refuses calls until it can look again.
		r.s.o.Logger.Warn("applied, but the views could not be reloaded", "error", err)
	}
	return nil
}

func (r *run) valued(c Change) bool {
	_, given := r.values[c.Name]
	return c.Kind == KindSecret && given && c.Op != Delete
}

// deletions returns what is deleted before and after everything is put. With
// two transactions everything is deleted in the second.
func (p *plan) deletions(kinds []string) (before, after []Change) {
	if !slices.Contains(kinds, KindPolicy) {
		return nil, nil
	}
	for _, c := range slices.Backward(p.changes) {
		switch {
		case c.Op != Delete:
		case c.Kind == KindPolicy:
			before = append(before, c)
		default:
			after = append(after, c)
		}
	}
	return before, after
}

// rotated notes secrets whose value is another one.
func (p *plan) rotated(names map[string]bool) {
	for i, c := range p.changes {
		if c.Kind == KindSecret && c.Op != Create && names[c.Name] && !slices.ContainsFunc(c.Diff, func(d FieldDiff) bool { return d.Field == "value" }) {
			if c.Op == None {
				p.changes[i].Op = Update
				p.changes[i].Diff = append(c.Diff, FieldDiff{"value", secrets.Redacted, secrets.Redacted})
			}
		}
	}
}

// one makes one change.
func (r *run) one(ctx context.Context, tx *audit.Tx, c Change) (bool, error) {
	if c.Op == Delete {
		return true, r.delete(ctx, tx, c)
	}
	o := r.s.o
	switch spec := c.spec.(type) {
	case *UserSpec:
		return o.Identity.PutUserTx(ctx, tx, r.by, r.reason, spec.user(c.Name))
	case *TeamSpec:
		return o.Identity.PutTeamTx(ctx, tx, r.by, r.reason, spec.team(c.Name))
	case *GroupSpec:
		return o.Identity.PutGroupTx(ctx, tx, r.by, r.reason, spec.group(c.Name))
	case *AgentSpec:
		return o.Identity.PutAgentTx(ctx, tx, r.by, r.reason, spec.agent(c.Name))
	case *TrustSpec:
		return o.Tokens.PutRuleTx(ctx, tx, r.by, r.reason, spec.rule(c.Name))
	case *ConnectionSpec:
		registered, err := o.Connections.RegisterTx(ctx, tx, r.by, r.reason, spec.connection(c.Name))
		if err != nil || spec.Kind != connections.HTTP {
			return registered, err
		}
		listed, err := o.Connections.DeclareTx(ctx, tx, r.by, r.reason, c.Name, spec.Operations, spec.declared)
		return registered || listed, err
	case *ChannelSpec:
		return o.Channels.PutTx(ctx, tx, r.by, r.reason, spec.channel(c.Name))
	case *SecretSpec:
		return o.Secrets.PutTx(ctx, tx, r.by, r.reason, spec.secret(c.Name), r.values[c.Name])
	case *ToolSpec:
		_, tool := splitTool(c.Name)
		effect, err := o.Connections.SetEffectTx(ctx, tx, r.by, r.reason, spec.Connection, tool, spec.Effect)
		if err != nil {
			return false, err
		}
		refs, err := o.Connections.SetReferencesTx(ctx, tx, r.by, r.reason, spec.Connection, tool, spec.references())
		return effect || refs, err
	case *BudgetSpec:
		b, err := spec.budget(c.Name)
		if err != nil {
			return false, err
		}
		return o.Budgets.PutTx(ctx, tx, r.by, r.reason, b)
	case *DetectionSpec:
		return o.Detection.PutTx(ctx, tx, r.by, r.reason, spec.rule(c.Name))
	case *GrantSpec:
		reason := r.reason
		if spec.Reason != "" {
			reason = spec.Reason
		}
		excepted, err := r.except(ctx, tx, c, spec)
		if err != nil {
			return false, err
		}
		given, err := o.Policy.PutGrantTx(ctx, tx, r.by, reason, grantOf(c.Name, spec))
		return given || excepted, err
	case *PolicySpec:
		return o.Policy.PutPoliciesTx(ctx, tx, r.by, r.reason, c.Name, spec.Text)
	}
	return false, fmt.Errorf("manifest: no verb for %s", c.Kind)
}

// except makes or ends the exception of a grant, before it is given.
func (r *run) except(ctx context.Context, tx *audit.Tx, c Change, spec *GrantSpec) (bool, error) {
	e := spec.Exception
	said := slices.ContainsFunc(c.Diff, func(d FieldDiff) bool { return d.Field == "exception" })
	switch {
	case !said && (e == nil || c.excepted != nil && c.excepted.Covers(grantOf(c.Name, spec))):
		return false, nil
	case r.s.o.Reviews == nil:
		return false, errors.New("manifest: files cannot make exceptions here")
	case e == nil:
		return true, r.s.o.Reviews.EndExceptionTx(ctx, tx, r.by, r.reason, c.excepted.ID)
	}
	_, err := r.s.o.Reviews.ExceptTx(ctx, tx, r.by, e.Reason, reviews.Exception{Grant: c.Name, Agent: spec.Agent, Connection: spec.Connection, Tools: spec.Tools, When: spec.When, Owner: e.Owner, Until: e.Until.At})
	return true, err
}

func (r *run) delete(ctx context.Context, tx *audit.Tx, c Change) (err error) {
	o := r.s.o
	switch c.Kind {
	case KindUser:
		return o.Identity.DeleteUserTx(ctx, tx, r.by, r.reason, c.Name)
	case KindTeam:
		return o.Identity.DeleteTeamTx(ctx, tx, r.by, r.reason, c.Name)
	case KindGroup:
		return o.Identity.DeleteGroupTx(ctx, tx, r.by, r.reason, c.Name)
	case KindAgent:
		return o.Identity.DeleteAgentTx(ctx, tx, r.by, r.reason, c.Name)
	case KindTrust:
		return o.Tokens.DeleteRuleTx(ctx, tx, r.by, r.reason, c.Name)
	case KindConnection:
		_, err = o.Connections.DeleteTx(ctx, tx, r.by, r.reason, c.Name)
	case KindChannel:
		_, err = o.Channels.DeleteTx(ctx, tx, r.by, r.reason, c.Name)
	case KindSecret:
		_, err = o.Secrets.DeleteTx(ctx, tx, r.by, r.reason, c.Name)
	case KindBudget:
		return o.Budgets.DeleteTx(ctx, tx, r.by, r.reason, c.Name)
	case KindDetection:
		return o.Detection.DeleteTx(ctx, tx, r.by, r.reason, c.Name)
	case KindGrant:
		return o.Policy.RevokeGrantTx(ctx, tx, r.by, r.reason, c.Name)
	case KindPolicy:
		return o.Policy.DeletePolicyTx(ctx, tx, r.by, r.reason, c.Name)
	default:
		err = fmt.Errorf("manifest: no verb for %s", c.Kind)
	}
	return err
}

// twice applies files with new connections: first what does not need their
// tools, then, when the tools are known, the rest.
func (r *run) twice(ctx context.Context, p *plan, resources []Resource) (Result, error) {
	if err := r.apply(ctx, p, firstKinds); err != nil {
		return r.failed(p, Refused, err)
	}
	if r.dry {
		p.warnings = append(p.warnings, "new connections or operations are among the files: applying takes two transactions, and the second (tools, grants, policies, deletions) was not tried")
		return r.done(p, Planned), nil
	}
	p.warnings = append(p.warnings, "new connections or operations are among the files: applied in two transactions, connections and what they need first")
	for _, name := range p.waiting {
		if c, ok := r.s.o.Connections.Connection(name); ok && c.Kind != connections.MCP {
			continue // its operations are listed: they are known now
		}
		if _, err := r.s.o.Connections.Refresh(ctx, r.by, r.reason, name); err != nil {
			r.s.o.Logger.Warn("cannot discover tools", "connection", name, "error", err)
			p.warnings = append(p.warnings, fmt.Sprintf("the tools of %s could not be discovered (%s); none can be called until this works: countersign connection refresh %s",
				name, fault.Public(err).Message, name))
		}
	}
	second, err := r.s.plan(ctx, resources, r.values)
	if err != nil {
		return Result{}, err
	}
	for i, c := range second.changes { // what the first transaction did stays in the answer
		at := slices.IndexFunc(p.changes, func(d Change) bool { return d.ID == c.ID })
		if slices.Contains(firstKinds, c.Kind) && c.Op != Delete && at >= 0 {
			second.changes[i] = p.changes[at]
		}
	}
	second.warnings = append(p.warnings, second.warnings...)
	if len(second.problems) == 0 {
		second.problems = r.unknown(second)
	}
	if len(second.problems) > 0 {
		res := refusal(second, second.problems)
		res.Outcome = Partly
		return res, nil
	}
	if err := r.apply(ctx, second, secondKinds); err != nil {
		return r.failed(second, Partly, err)
	}
	return r.done(second, Applied), nil
}

// unknown finds the tools whose effect cannot be set because they could not be
// discovered.
func (r *run) unknown(p *plan) []Problem {
	var problems []Problem
	for _, c := range p.changes {
		if conn, _ := splitTool(c.Name); c.Kind == KindTool && c.Op != None && slices.Contains(p.waiting, conn) {
			at := c.res.where("name")
			problems = append(problems, Problem{File: at.file, Line: at.line, Column: at.column, Field: "name", Message: "the tools of " + conn + " could not be discovered"})
		}
	}
	return problems
}

func (r *run) failed(p *plan, outcome string, err error) (Result, error) {
	var rc *refusedChange
	if !errors.As(err, &rc) || !p.refused(rc.change.res, rc.cause) {
		return Result{}, err
	}
	res := refusal(p, p.problems)
	res.Outcome = outcome
	return res, nil
}

func (r *run) done(p *plan, outcome string) Result {
	if r.dry {
		outcome = Planned
	}
	res := refusal(p, []Problem{})
	res.Outcome = outcome
	return res
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return append([]string{}, out...)
}
