package manifest_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/manifest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

const trustFile = `kind: User
name: olga
spec: {role: owner}
---
kind: Agent
name: release-bot
spec: {owner: olga, stage: production}
---
kind: Trust
name: ci
spec:
  agent: release-bot
  issuer: https://token.actions.githubusercontent.com
  subject: repo:acme/shop:environment:production
  claims: {repository_id: "42"}
`

// Trust rules are files too: applied twice they change nothing, exported they
// read back, and what is wrong with one is told with its line.
func TestTrustRulesAsFiles(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := build(t, db)
		apply := func(text string) manifest.Result {
			t.Helper()
			r, err := w.Apply(ctx, audit.System, "test", manifest.Request{Files: []manifest.File{{Name: "x.yaml", Text: text}}})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		ops := func(r manifest.Result) (out string) {
			for _, c := range r.Changes {
				if c.Kind == manifest.KindTrust {
					out += c.Op
				}
			}
			return out
		}
		if r := apply(trustFile); r.Outcome != manifest.Applied || ops(r) != manifest.Create {
			t.Fatalf("%+v", r)
		}
		if r := apply(trustFile); ops(r) != manifest.None {
			t.Errorf("applied twice: %+v", r)
		}
		files, err := w.Export(ctx)
		if err != nil {
			t.Fatal(err)
		}
		exported := false
		for _, f := range files {
			if f.Name == "trust.yaml" {
				exported = strings.Contains(f.Text, "repo:acme/shop:environment:production")
				if r := apply(f.Text); ops(r) != manifest.None {
					t.Errorf("what was exported changes something: %+v", r)
				}
			}
		}
		if !exported {
			t.Error("the rule was not exported")
		}
		for what, change := range map[string][2]string{
			"a wildcard without why":     {"environment:production", "environment:*"},
			"an agent that is not there": {"agent: release-bot", "agent: nobody"},
			"an http issuer":             {"https://token", "http://token"},
		} {
			r := apply(strings.Replace(trustFile, change[0], change[1], 1))
			if r.Outcome != manifest.Refused || len(r.Problems) == 0 || r.Problems[0].Line == 0 {
				t.Errorf("%s: %+v", what, r)
			}
		}
		if r := apply("kind: Trust\nname: ci\nstate: absent\n"); ops(r) != manifest.Delete {
			t.Errorf("%+v", r)
		}
	})
}
