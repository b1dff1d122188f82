package search_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Whatever is asked, the index answers as if every event had been read, page by
// page and in the order of time: while it follows, and after it was built again
// from the log alone.
func TestTheIndexAgreesWithTheLog(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		const events = 300
		f := setup(t, db, func(s *search.Service) { s.Walk(11) })
		rng, outcomes := rand.New(rand.NewPCG(5, 6)), 0
		for i := range events {
			ev, p := anyEvent(rng, i)
			if ev.Type == audit.CallIntent {
				r, err := f.log.Intent(t.Context(), ev, p...)
				if err != nil {
					t.Fatal(err)
				}
				f.log.Outcome(r, audit.Event{Time: ev.Time.Add(time.Second), Outcome: &audit.Outcome{Status: []string{audit.Succeeded, audit.Failed}[rng.IntN(2)], Error: "the ledger is closed"}})
				outcomes++
			} else if _, err := f.log.Append(t.Context(), ev, p...); err != nil {
				t.Fatal(err)
			}
		}
		for len(f.all(t)) < events+outcomes { // nobody waits for an outcome
			time.Sleep(time.Millisecond)
		}
		if _, err := f.log.Erase(t.Context(), audit.System, "asked", audit.Erasure{Subject: "person 1"}); err != nil {
			t.Fatal(err)
		}
		for _, state := range []string{"live", "rebuilt"} {
			if state == "rebuilt" {
				if err := f.s.Rebuild(t.Context(), audit.System, "test"); err != nil {
					t.Fatal(err)
				}
			}
			f.caughtUp(t)
			if problems := f.verify(t); len(problems) > 0 {
				t.Errorf("%s: %v", state, problems)
			}
			all := f.all(t)
			for range 250 {
				f.agree(t, state, anyQuery(rng), all, rng.IntN(2) == 0, 1+rng.IntN(40))
			}
		}
	})
}

// Whatever can be read as a query is answered, and as the log would.
func FuzzFind(f *testing.F) {
	for _, q := range []string{"decision:deny tool:ledger/* -agent:a*", `touches:"order/A b",x/* "a b" -c lim*`, "object:*", "-tool:*/x", `actor:"a\x00b*"`, "__all", `NOT* AND OR "(" ^x`, "agent:agent-*,agent-a -run:run-*", "since:1h until:2h -x*"} {
		f.Add(q)
	}
	db := storagetest.Open(f, storagetest.SQLite(f))
	l, err := audit.Open(f.Context(), db, audit.Options{Redactor: noSecrets{}, Keeper: audittest.Keeper("k")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close(context.Background()) })
	s, err := search.New(db, l, search.Options{})
	if err != nil {
		f.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for i := range 60 {
		ev, p := anyEvent(rng, i)
		if ev.Type == audit.CallIntent {
			ev.Type = audit.CallHeld
		}
		if _, err := l.Append(f.Context(), ev, p...); err != nil {
			f.Fatal(err)
		}
	}
	all, err := l.List(f.Context(), audit.Query{Oldest: true, Payloads: true, Limit: 1000})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Insert(f.Context(), all); err != nil {
		f.Fatal(err)
	}
	s.Walk(5)
	fx := &fixture{log: l, s: s}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := search.Parse(text, start.Add(10*time.Hour)); err == nil {
			fx.agree(t, "fuzzed", text, all, len(text)%2 == 0, 7)
		}
	})
}

// all returns every event of the log in the order of identifiers, with payloads.
func (f *fixture) all(t *testing.T) (recs []audit.Record) {
	t.Helper()
	q := audit.Query{Oldest: true, Payloads: true, Limit: 1000}
	recs, err := f.log.List(t.Context(), q)
	if err != nil || len(recs) == q.Limit {
		t.Fatalf("%d events, %v", len(recs), err)
	}
	return recs
}

// agree compares all pages of a query with the events that match it.
func (f *fixture) agree(t *testing.T, state, text string, all []audit.Record, oldest bool, limit int) {
	t.Helper()
	q, err := search.Parse(text, start.Add(10*time.Hour))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var want, got []string
	for i := range all {
		if q.Match(&all[i]) {
			want = append(want, all[i].Event.ID)
		}
	}
	if !oldest {
		slices.Reverse(want)
	}
	for p := (search.Page{Limit: limit, Oldest: oldest}); ; {
		res, err := f.s.Find(context.Background(), q, p)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, r := range res.Records {
			got = append(got, r.Event.ID)
		}
		if p.After = res.Next; p.After == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s, %s, oldest %v, pages of %d: %d events, of which the log has %d", state, text, oldest, limit, len(got), len(want))
	}
}

// kinds are the types of events that are made up, one per shape.
var kinds = []audit.Type{audit.CallIntent, audit.CallDenied, audit.CallHeld, audit.CallRefused, "agent.created", "secret.rotated", "lock.placed"}

// anyEvent makes up an event, with every kind of field, at a time of its own.
func anyEvent(rng *rand.Rand, i int) (audit.Event, []audit.Payload) {
	pick := func(prefix string, n int) string {
		if rng.IntN(4) == 0 {
			return ""
		}
		return fmt.Sprintf("%s-%c", prefix, 'a'+rune(rng.IntN(n)))
	}
	agent := pick("agent", 4)
	ev := audit.Event{
		Type: kinds[i%len(kinds)], Time: start.Add(time.Duration(i) * time.Minute), Actor: audit.Person("usr_1", pick("Ada", 2)), Agent: agent, Owner: pick("owner", 2), Team: pick("team", 2),
		Stage: pick("stage", 2), Connection: pick("conn", 3), Tool: pick("tool", 3) + []string{"", "/v1/pay", "_x"}[rng.IntN(3)], Effect: pick("effect", 2), Run: pick("run", 9), Call: fmt.Sprintf("call-%d", i/2),
		Object: pick("invoice/No", 5), Credential: pick("key", 3), Remote: "10.0.0." + fmt.Sprint(rng.IntN(9)), Reason: pick("over the limit of", 3),
	}
	if ev.Tool == "" || ev.Connection == "" {
		ev.Tool, ev.Connection = "", ""
	}
	if rng.IntN(3) == 0 {
		ev.Labels = []string{"pii", pick("label", 3)}
		ev.Objects = []string{pick("invoice/47", 5) + "x", "order/A b"}
	}
	if rng.IntN(2) == 0 {
		ev.Decision = &audit.Decision{Effect: []string{"allow", "deny", "hold"}[rng.IntN(3)], Policies: []string{pick("limits", 3) + "!", "office_hours"}, Grants: []string{pick("grant", 2) + "."}, Reason: "because limits"}
	}
	if rng.IntN(3) > 0 {
		return ev, nil
	}
	return ev, []audit.Payload{{Name: "arguments", Subject: fmt.Sprint("person ", rng.IntN(4)), Body: fmt.Appendf(nil, `{"iban":"DE%d","note":"Überweisung, limited to %s"}`, rng.IntN(5), agent)}}
}

// anyQuery makes up a query of one to three parts.
func anyQuery(rng *rand.Rand) string {
	parts := []string{
		"type:call.denied", "type:call.*", "decision:deny", "decision:deny,hold", "status:failed", "agent:agent-a", "agent:agent-b,agent-c", "agent:agent-*", "agent:*-C", "owner:owner-a", "team:team-b", "stage:stage-a",
		"connection:conn-a", "tool:conn-b/*", "tool:conn-a/tool-a", "tool:tool-b", "tool:*_x", "tool:pay", "tool:v1/pay", "tool:conn-a/tool-a/*", "tool:conn-b/tool-*/v1/*", "effect:effect-a", "run:run-a", "run:run-*", "call:call-7", "call:call-1*", "actor:Ada-a", "actor:ada-*",
		"object:invoice/No-a", "object:invoice/*", "object:invoice/no-*", "object:*-b", "credential:key-a", "remote:10.0.0.*", "remote:10.0.0.3", "policy:office_hours", "policy:limits-a!", "policy:lim*", "grant:grant-a.", "label:pii", "label:label-*",
		"touches:invoice/47-ax", "touches:invoice/*", `touches:"order/A b"`, "touches:invoice/47*x", "since:6h", "until:7h", "since:8h until:5h",
		"limit", "limi*", "over", `"over the limit"`, "DE3", "de3", "überweisung", "limited", "because", "agent", "age*", "ledger", "nowhere", "nowh*", "invoice",
	}
	var q []string
	for range 1 + rng.IntN(3) {
		part := parts[rng.IntN(len(parts))]
		if rng.IntN(4) == 0 && !strings.Contains(part, "since") && !strings.Contains(part, "until") {
			part = "-" + part
		}
		q = append(q, part)
	}
	text := strings.Join(q, " ")
	if strings.Count(text, "since:") > 1 || strings.Count(text, "until:") > 1 {
		return parts[rng.IntN(len(parts))]
	}
	return text
}
