package releases_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// release makes a release and puts it in force, approved by another if it must be.
func (r *replica) release(spec releases.Spec, ask releases.Ask) releases.Release {
	r.t.Helper()
	one, err := r.Create(ctx, olga, why, "payer", spec)
	r.must(err)
	ask.Agent = "payer"
	q, err := r.Promote(ctx, olga, why, ask)
	r.must(err)
	if q.State == releases.StateOpen {
		_, err = r.Approve(ctx, oskar, why, q.ID)
		r.must(err)
	}
	return one
}

func outside(err error) bool { return errors.Is(err, releases.ErrOutside) }

// An agent is bound by what its release pins, whatever policy allows since; and a
// rollback returns pins, grants and its own policies on every replica.
func TestPinsAndRollback(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := join(t, dsn)
		r.business()
		pay := releases.Question{Connection: "ledger", Tool: "pay"}
		if err := r.ask(pay); err != nil {
			t.Fatalf("an agent without a release is bound: %v", err)
		}
		if _, err := r.policy.PutPolicies(ctx, oskar, why, "payer", `@id("small") forbid (principal == Agent::"payer", action == Action::"ledger/read", resource) when { context.args has amount && context.args.amount > 10 };`); err != nil {
			t.Fatal(err)
		}
		r.must(second(r.policy.PutPolicies(ctx, oskar, why, "all", `@id("readers") permit (principal, action == Action::"ledger/read", resource);`)))
		prompt := "Pay what is due.\n"
		first := r.release(releases.Spec{Models: []string{"openai/gpt-5"}, Prompts: []string{releases.PromptDigest(prompt)}}, releases.Ask{})

		chat := func(model, prompt string) releases.Question {
			return releases.Question{Connection: "openai", Tool: "chat.completions", Model: model, Prompt: func() (string, bool) { return prompt, true }}
		}
		for name, c := range map[string]struct {
			q       releases.Question
			refused bool
		}{
			"a pinned tool":                {releases.Question{Connection: "ledger", Tool: "read"}, false},
			"a tool outside":               {pay, true},
			"the pinned model":             {chat("gpt-5", prompt), false},
			"the prompt in other space":    {chat("gpt-5", " Pay what is due. "), false},
			"another model":                {chat("gpt-6", prompt), true},
			"an alias of the model":        {chat("gpt-5-latest", prompt), true},
			"the model in capitals":        {chat("GPT-5", prompt), true},
			"another prompt":               {chat("gpt-5", prompt+"Or what is not."), true},
			"no prompt":                    {chat("gpt-5", ""), true},
			"a changed definition":         {releases.Question{Connection: "ledger", Tool: "read", Digest: "00"}, true},
			"a changed effect":             {releases.Question{Connection: "ledger", Tool: "read", Effect: "read"}, true},
			"plumbing of a connection":     {releases.Question{Connection: "ledger", Tool: "mcp:ping", Plumbing: true}, false},
			"plumbing of one that is not":  {releases.Question{Connection: "files", Tool: "mcp:ping", Plumbing: true}, true},
			"a prompt the provider keeps":  {releases.Question{Connection: "openai", Tool: "responses", Model: "gpt-5", Prompt: func() (string, bool) { return prompt, false }}, true},
			"a model of a same name else":  {releases.Question{Connection: "other", Tool: "chat.completions", Model: "gpt-5"}, true},
			"what gives no prompt a model": {releases.Question{Connection: "openai", Tool: "embeddings", Model: "gpt-5"}, false},
		} {
			if err := r.ask(c.q); outside(err) != c.refused {
				t.Errorf("%s: %v", name, err)
			}
		}

		// A second release may pay, by a grant, with its own policy loosened and one more.
		r.grant("payments", "ledger", "pay")
		r.must(second(r.policy.PutPolicies(ctx, oskar, why, "payer", `@id("small") forbid (principal == Agent::"payer", action == Action::"ledger/read", resource) when { context.args has amount && context.args.amount > 1000 };`)))
		r.must(second(r.policy.PutPolicies(ctx, oskar, why, "more", `@id("more") permit (principal == Agent::"payer", action == Action::"ledger/pay", resource);`)))
		r.must(second(r.policy.PutPolicies(ctx, oskar, why, "never", `@id("never") forbid (principal == Agent::"payer", action == Action::"ledger/pay", resource) when { context.args has amount && context.args.amount > 9 };`)))
		if err := r.ask(pay); !outside(err) {
			t.Errorf("a grant widened the release: %v", err)
		}
		d, err := r.Diff(ctx, "payer", 0, releases.Live)
		r.must(err)
		if !slices.ContainsFunc(d.Changes, func(c releases.Change) bool { return c.ID == "tool/ledger/pay" && c.What == "added" }) {
			t.Errorf("the difference to the release does not show the tool: %+v", d.Changes)
		}
		replicas := map[string]*replica{"here": r}
		if r.db.Dialect() == storage.Postgres { // a file is one server's
			replicas["on another replica"] = join(t, dsn)
		}
		r.release(releases.Spec{Models: []string{"openai/gpt-6"}}, releases.Ask{})
		if err := r.ask(pay); err != nil {
			t.Fatalf("the second release does not include its tool: %v", err)
		}

		m, err := r.Rollback(ctx, oskar, "it pays too much", releases.Back{Agent: "payer", Gives: true})
		r.must(err)
		if m.Number != first.Number || m.Previous != 2 {
			t.Errorf("rolled back from %d to %d", m.Previous, m.Number)
		}
		if !slices.Equal(m.Restored.Revoked, []string{"payments"}) || !slices.Equal(m.Restored.Policies, []string{"payer"}) || !slices.Equal(m.Restored.Removed, []string{"more"}) || !slices.Equal(m.Restored.Kept, []string{"never"}) {
			t.Errorf("restored: %+v", m.Restored)
		}
		for name, at := range replicas {
			until(t, "the rollback is seen "+name, func() bool { return outside(at.ask(pay)) })
			if err := at.ask(chat("gpt-6", prompt)); !outside(err) {
				t.Errorf("%s the rolled-back model is still used: %v", name, err)
			}
		}
		if grants, err := r.policy.Grants(ctx, "payer"); err != nil || len(grants) != 2 {
			t.Errorf("grants after the rollback: %v %v", grants, err)
		}
		if f, err := r.policy.File(ctx, "payer"); err != nil || f.Text != first.Policies[slices.IndexFunc(first.Policies, func(p releases.Policy) bool { return p.Name == "payer" })].Text {
			t.Errorf("the policy after the rollback: %v %v", f, err)
		}
		if recs, err := r.log.List(ctx, audit.Query{Types: []audit.Type{"release.rolled_back"}}); err != nil || len(recs) != 1 {
			t.Errorf("%d events of the rollback, %v", len(recs), err)
		}
		if _, err := r.Rollback(ctx, oskar, why, releases.Back{Agent: "payer", Gives: true}); !errors.Is(err, releases.ErrNothing) {
			t.Errorf("rolled back to before the first: %v", err)
		}
		r.must(r.ids.DeleteAgent(ctx, audit.System, why, "payer"))
		if all, err := r.List(ctx, "payer"); err != nil || len(all) != 0 {
			t.Errorf("a namesake would inherit %d releases, %v", len(all), err)
		}
	})
}

// Above development nobody promotes alone, nothing is promoted under a lock, and
// an agent does not carry a release into another stage by itself.
func TestPromotionsAreApproved(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		r := join(t, dsn)
		r.business()
		r.must(second(r.Create(ctx, olga, why, "payer", spec())))
		q, err := r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Stage: identity.Production, Accepted: r.missing(identity.Production)})
		r.must(err)
		if st, _ := r.State(ctx, "payer"); st.Active != 0 {
			t.Fatalf("it was promoted without approval: %+v", st)
		}
		if _, err := r.Approve(ctx, olga, why, q.ID); !errors.Is(err, releases.ErrSelf) {
			t.Errorf("the asker approves: %v", err)
		}
		lock, err := r.locks.Add(ctx, oskar, locks.Lock{Kind: locks.Agent, Name: "payer", Reason: why}, 0)
		r.must(err)
		if _, err := r.Approve(ctx, oskar, why, q.ID); !errors.Is(err, releases.ErrLocked) {
			t.Errorf("it is promoted under a lock: %v", err)
		}
		r.must(second(r.locks.Lift(ctx, oskar, why, lock.ID)))
		r.must(second(r.Approve(ctx, oskar, why, q.ID)))
		if _, err := r.Approve(ctx, oskar, why, q.ID); !errors.Is(err, releases.ErrDecided) {
			t.Errorf("it is approved twice: %v", err)
		}
		if a, _ := r.ids.Agent("payer"); a.Stage != identity.Production {
			t.Errorf("the agent is in %s", a.Stage)
		}
		read := releases.Question{Connection: "ledger", Tool: "read"}
		r.must(r.ask(read))
		a, _ := r.ids.Agent("payer")
		a.Stage = identity.Staging
		r.must(second(r.ids.PutAgent(ctx, olga, why, a)))
		if err := r.ask(read); !errors.Is(err, releases.ErrStage) {
			t.Errorf("a release of production holds in staging: %v", err)
		}

		late, err := r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Stage: identity.Staging, Accepted: r.missing(identity.Staging)})
		r.must(err)
		r.mu.Lock()
		r.ahead = releases.AskFor
		r.mu.Unlock()
		if _, err := r.Approve(ctx, oskar, why, late.ID); !errors.Is(err, releases.ErrDecided) {
			t.Errorf("an approval comes too late and counts: %v", err)
		}
	})
}

func second[T any](_ T, err error) error { return err }
