package releases_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Where releases are required, an agent in production without a promoted one makes
// no call and is shown no tool; in other stages, and without the setting, it is as
// policy says. A canary alone binds its share of the runs, and no other calls.
func TestAReleaseIsRequiredInProduction(t *testing.T) {
	r, other := joinWith(t, storagetest.SQLite(t), releases.Options{Required: true}), join(t, storagetest.SQLite(t))
	r.business()
	other.business()
	read := releases.Question{Connection: "ledger", Tool: "read"}
	stage := func(r *replica, to string) {
		t.Helper()
		_, err := r.ids.PutAgent(ctx, olga, why, identity.Agent{Name: "payer", Owner: "olga", Backup: "oskar", Stage: to, Purpose: "pays invoices", BusinessProcess: "accounts payable"})
		r.must(err)
	}
	for _, to := range []string{identity.Development, identity.Staging} {
		stage(r, to)
		if err := r.ask(read); err != nil || !r.Shows("payer", "ledger", "read") {
			t.Errorf("%s: %v", to, err)
		}
	}
	stage(r, identity.Production)
	stage(other, identity.Production)
	err := r.ask(read)
	if !errors.Is(err, releases.ErrRequired) || !strings.Contains(err.Error(), "countersign release promote payer --to production") || r.Shows("payer", "ledger", "read") {
		t.Errorf("%v", err)
	}
	if err := r.ask(releases.Question{Connection: "ledger", Tool: "read", Plumbing: true}); !errors.Is(err, releases.ErrRequired) {
		t.Errorf("plumbing: %v", err)
	}
	undo := read
	undo.Free = true
	if err := r.ask(undo); err != nil {
		t.Errorf("nothing can be undone: %v", err)
	}
	if err := other.ask(read); err != nil {
		t.Errorf("without the setting: %v", err)
	}

	r.must(second(r.Create(ctx, olga, why, "payer", spec())))
	r.must(second(r.Create(ctx, olga, why, "payer", spec()))) // runs are chosen for the second
	q, err := r.Promote(ctx, olga, why, releases.Ask{Agent: "payer", Percent: 50, Accepted: r.missing(identity.Production)})
	r.must(err)
	r.must(second(r.Approve(ctx, oskar, why, q.ID)))
	for _, tried := range []bool{true, false} {
		read.Run = runs(tried, 1)[0]
		if err := r.ask(read); tried && err != nil || !tried && !errors.Is(err, releases.ErrRequired) {
			t.Errorf("a run of the canary %t: %v", tried, err)
		}
	}
	r.release(spec(), releases.Ask{Accepted: r.missing(identity.Production)})
	if err := r.ask(read); err != nil || !r.Shows("payer", "ledger", "read") {
		t.Errorf("with a release: %v", err)
	}
	read.Agent, read.Stage = "payer", identity.Production
	if bound, err := r.Check(&read); bound.Release != (policy.Release{Number: 3, Stage: identity.Production}) {
		t.Errorf("%+v %v", bound, err)
	}
}
