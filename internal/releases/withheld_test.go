package releases_test

import (
	"context"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// What a review revoked comes back with no release; what was only taken away does,
// and what a person gave anew stays.
func TestNoReleaseGivesBackWhatAReviewRevoked(t *testing.T) {
	revoked := map[string]bool{"reviewed": true, "anew": true}
	r := joinWith(t, storagetest.SQLite(t), releases.Options{Rooms: releases.Rooms{Withheld: func(context.Context, *audit.Tx, string) (map[string]bool, error) { return revoked, nil }}})
	r.business()
	for _, name := range []string{"reviewed", "anew", "taken"} {
		r.grant(name, "ledger", "pay")
	}
	r.release(releases.Spec{Models: []string{"openai/gpt-5"}}, releases.Ask{})
	for _, name := range []string{"reviewed", "taken"} {
		r.must(r.policy.RevokeGrant(ctx, oskar, why, name))
	}
	r.release(releases.Spec{Models: []string{"openai/gpt-5"}}, releases.Ask{})
	m, err := r.Rollback(ctx, oskar, why, releases.Back{Agent: "payer", Gives: true})
	r.must(err)
	if !slices.Equal(m.Restored.Withheld, []string{"reviewed"}) || !slices.Equal(m.Restored.Given, []string{"taken"}) {
		t.Errorf("%+v", m.Restored)
	}
	grants, err := r.policy.Grants(ctx, "payer")
	r.must(err)
	for name, want := range map[string]bool{"reviewed": false, "anew": true, "taken": true} {
		if got := slices.ContainsFunc(grants, func(g policy.Grant) bool { return g.Name == name }); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
