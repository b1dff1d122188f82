package search_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

type noSecrets struct{}

func (noSecrets) Redact(b []byte) []byte {
	return bytes.ReplaceAll(b, []byte("hunter2"), []byte("[redacted]"))
}

var start = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

type fixture struct {
	log *audit.Log
	s   *search.Service
	ids map[string]string // name -> event

	body string // of the next request to the API
}

// setup starts a search over a new log, after change, if any.
func setup(t *testing.T, db *storage.DB, change ...func(*search.Service)) *fixture {
	t.Helper()
	ctx := context.Background()
	l, err := audit.Open(ctx, db, audit.Options{Redactor: noSecrets{}, Keeper: audittest.Keeper("k")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(ctx) })
	s, err := search.New(db, l, search.Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return start.Add(time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(s)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(ctx) })
	return &fixture{log: l, s: s, ids: map[string]string{}}
}

func (f *fixture) add(t *testing.T, name string, minute int, ev audit.Event, p ...audit.Payload) {
	t.Helper()
	ev.Time = start.Add(time.Duration(minute) * time.Minute)
	ref, err := f.log.Append(context.Background(), ev, p...)
	if err != nil {
		t.Fatal(err)
	}
	f.ids[ref.ID] = name
}

func (f *fixture) caughtUp(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		n, err := f.s.Behind(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

func (f *fixture) fill(t *testing.T) {
	f.add(t, "deny", 1, audit.Event{Type: audit.CallDenied, Agent: "invoice-checker", Team: "finance", Connection: "ledger", Tool: "pay_invoice", Run: "run_a",
		Decision: &audit.Decision{Effect: "deny", Policies: []string{"limits", "office_hours"}, Reason: "over the limit"}})
	f.add(t, "allow", 2, audit.Event{Type: audit.CallRefused, Agent: "support-assistant", Connection: "helpdesk", Tool: "get_ticket", Run: "run_b",
		Decision: &audit.Decision{Effect: "allow", Grants: []string{"g1"}}}, audit.Payload{Name: "arguments", Body: []byte(`{"text":"Überweisung\nan Müller GmbH, 1.250,00 EUR \u0073ofort"}`)})
	f.add(t, "user", 3, audit.Event{Type: "agent.created", Actor: audit.Person("usr_1", "ada"), Object: "agent/invoice-checker", Reason: "the finance team's 100% share"})
	f.add(t, "labels", 4, audit.Event{Type: audit.CallHeld, Objects: []string{"invoice/47_11", "order/A b"}, Labels: []string{"untrusted", "pii"}, Detail: []byte(`{"note":"under_score"}`)}, audit.Payload{Name: "raw", Body: []byte{0xff, 0, 'b', 'i', 'n'}})
	f.caughtUp(t)
}

func (f *fixture) find(t *testing.T, q string) []string {
	t.Helper()
	parsed, err := search.Parse(q, start.Add(time.Hour))
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	res, err := f.s.Find(context.Background(), parsed, search.Page{Oldest: true})
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	var names, matched []string
	for _, r := range res.Records {
		names = append(names, f.ids[r.Event.ID])
	}
	// The tail's filter must agree with the index.
	all, err := f.log.List(context.Background(), audit.Query{Oldest: true, Payloads: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if parsed.Match(&r) {
			matched = append(matched, f.ids[r.Event.ID])
		}
	}
	if !slices.Equal(names, matched) {
		t.Errorf("%s: the index finds %v, the tail %v", q, names, matched)
	}
	return names
}

func TestFind(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		f.fill(t)
		for q, want := range map[string]string{
			"":                           "deny allow user labels",
			"decision:deny":              "deny",
			"decision:deny,allow":        "deny allow",
			"-decision:deny":             "allow user labels",
			"tool:ledger/*":              "deny",
			"tool:pay_invoice":           "deny",
			"tool:*_invoice":             "deny",
			"tool:payxinvoice":           "",
			"agent:*-ASSISTANT":          "allow",
			"agent:support":              "",
			"team:finance type:call.*":   "deny",
			"policy:limits":              "deny",
			"touches:invoice/47_11":      "labels",
			"touches:invoice/47":         "",
			"touches:invoice/47x11":      "",
			"touches:invoice/*":          "labels",
			"touches:47_11":              "",
			`touches:"order/A b",x/y`:    "labels",
			`touches:"order/a b"`:        "",
			"-touches:invoice/47_11":     "deny allow user",
			"touches:///":                "",
			"policy:office*":             "deny",
			"policy:lim*hours":           "",
			"-policy:lim*hours":          "deny allow user labels",
			"label:pii,secret":           "labels",
			"grant:g1":                   "allow",
			"actor:ada":                  "user",
			"object:agent/*":             "user",
			"run:run_a,run_b":            "deny allow",
			"since:58m until:57m":        "allow",
			"since:2026-03-04T12:03":     "user labels",
			"until:2026-03-04":           "",
			"since:1d":                   "deny allow user labels",
			"limit":                      "deny",
			`"over the limit"`:           "deny",
			`"limit the over"`:           "",
			"müller":                     "allow",
			"MÜLLER gmbh":                "allow",
			"müll*":                      "", // of payloads the index knows whole words only
			"lim*":                       "deny",
			"muller":                     "",
			"nan":                        "",
			"sofort":                     "allow",
			`"überweisung an müller"`:    "allow",
			"1.250,00":                   "allow",
			"-limit":                     "allow user labels",
			`-"over the" type:call.*`:    "allow labels",
			"under_score":                "labels",
			"bin":                        "labels",
			"100%":                       "user",
			"ticket OR '1'='1":           "",
			"agent:invoice-checker pay*": "deny",
			`agent:"invoice-checker"`:    "deny",
		} {
			if got := strings.Join(f.find(t, q), " "); got != want {
				t.Errorf("%s: found %q, want %q", q, got, want)
			}
		}
	})
}

func TestPages(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		f := setup(t, db)
		for i := range 25 {
			f.add(t, fmt.Sprint(i), i, audit.Event{Type: audit.CallDenied, Agent: "a"})
		}
		f.caughtUp(t)
		for _, oldest := range []bool{true, false} {
			var got []string
			for p := (search.Page{Limit: 10, Oldest: oldest}); ; {
				res, err := f.s.Find(ctx, search.Query{}, p)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range res.Records {
					got = append(got, f.ids[r.Event.ID])
				}
				if res.Next == "" {
					break
				}
				p.After = res.Next
			}
			if !oldest {
				slices.Reverse(got)
			}
			if len(got) != 25 || got[0] != "0" || got[24] != "24" {
				t.Errorf("oldest %v: %v", oldest, got)
			}
		}
		if _, err := f.s.Find(ctx, search.Query{}, search.Page{After: "x"}); !errors.Is(err, search.ErrCursor) {
			t.Error(err)
		}
	})
}

func TestRebuildAndRestart(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := context.Background()
		f := setup(t, db)
		f.fill(t)
		if err := f.s.Rebuild(ctx, audit.Person("usr_1", "ada"), "test"); err != nil {
			t.Fatal(err)
		}
		f.caughtUp(t)
		if got := f.find(t, "-type:search.*"); len(got) != 4 {
			t.Errorf("%v", got)
		}
		if got := f.find(t, "type:search.rebuilt actor:ada"); len(got) != 1 {
			t.Errorf("%v", got)
		}
		if err := f.s.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		f.add(t, "later", 9, audit.Event{Type: audit.CallDenied, Reason: "afterwards"})
		if n, err := f.s.Behind(ctx); n != 1 || err != nil {
			t.Errorf("behind %d, %v", n, err)
		}
		if err := f.s.Start(ctx); err != nil {
			t.Fatal(err)
		}
		f.caughtUp(t)
		if got := f.find(t, "afterwards"); len(got) != 1 {
			t.Errorf("%v", got)
		}
	})
}

func TestTwoReplicasIndexOnce(t *testing.T) {
	db := storagetest.Open(t, storagetest.Postgres(t))
	a, b := setup(t, db), setup(t, db)
	for i := range 200 {
		f := []*fixture{a, b}[i%2]
		f.add(t, fmt.Sprint(i), i, audit.Event{Type: audit.CallDenied, Reason: "word"})
	}
	a.caughtUp(t)
	res, err := b.s.Find(context.Background(), search.Query{}, search.Page{Limit: 1000})
	if err != nil || len(res.Records) != 200 {
		t.Fatalf("%d, %v", len(res.Records), err)
	}
}

func TestQueryErrorsNameTheColumn(t *testing.T) {
	for q, want := range map[string]string{
		`agnet:x`:                        `column 1: there is no field "agnet"`,
		`ü agnet:x`:                      `column 3: there is no field "agnet"`,
		`decision:`:                      "column 10: decision: needs a value",
		`decision:a,`:                    "column 12: decision: needs a value",
		`since:yesterday`:                "column 7: since: needs a duration",
		`since:-2h`:                      "column 7",
		`since:1h since:2h`:              "column 10: since is given twice",
		`-until:1h`:                      "column 2: until cannot be negated",
		`a "b c`:                         "column 3: the quote is not closed",
		`"a"b`:                           "column 4: a space is missing",
		`""`:                             "column 1: there is no word",
		`-`:                              "column 1: there is no word",
		`***`:                            `column 1: "***" holds no letter`,
		strings.Repeat("a ", 65):         "more than 64 parts",
		strings.Repeat("a", 5000):        "longer than 4096",
		"\xff":                           "not UTF-8",
		`https://x.example/secret?a=b`:   `column 1: there is no field "https"`,
		`since:99999999999999999999999d`: "column 7",
	} {
		_, err := search.Parse(q, start)
		if !errors.Is(err, search.ErrQuery) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", q, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, q := range []string{"decision:deny tool:ledger/* since:2h \"a b\" -c d*", "a:b,\"c d\",e*", "-", "\"", "until:2026-01-01 ü\u2028x"} {
		f.Add(q)
	}
	r := audit.Record{Event: audit.Event{Type: "a.b", Agent: "x", Reason: "some words \\u00fc \\"}, Payloads: map[string][]byte{"p": []byte(`{"a":"\n\u12"}`)}}
	r.Event.Payloads = []audit.Commitment{{Name: "p"}}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := search.Parse(s, start)
		if err != nil {
			if !errors.Is(err, search.ErrQuery) {
				t.Fatal(err)
			}
			return
		}
		q.Match(&r)
	})
}
