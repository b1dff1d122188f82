package runs_test

import (
	"context"
	"crypto/sha256"
	"encoding/json/jsontext"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/runs"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var ctx = context.Background()

type clock struct{ now atomic.Int64 }

func (c *clock) at() time.Time        { return time.UnixMicro(c.now.Load()).UTC() }
func (c *clock) pass(d time.Duration) { c.now.Add(d.Microseconds()) }

func newClock() *clock {
	c := &clock{}
	c.now.Store(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC).UnixMicro())
	return c
}

func service(t *testing.T, db *storage.DB, c *clock) *runs.Service {
	t.Helper()
	s, err := runs.New(db, runs.Options{Now: c.at, Derive: func(label string) []byte {
		sum := sha256.Sum256([]byte(label))
		return sum[:]
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exchange(agent, run string) runs.Exchange {
	return runs.Exchange{Agent: agent, Run: run, Memory: agent + "/key", Call: "call_" + run}
}

func pay(args string) []runs.Proposal {
	return []runs.Proposal{{Tool: "pay", Args: jsontext.Value(args)}}
}

func asked(t *testing.T, s *runs.Service, q runs.Query) (runs.Match, bool) {
	t.Helper()
	m, ok, err := s.Match(ctx, q)
	must(t, err)
	return m, ok
}

// Every replica, and a later start, knows what an answer proposed, and uses it up once.
func TestWhatHasAnEffectUsesItsProposalUp(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := newClock()
		replicas := []*runs.Service{service(t, db, c), service(t, db, c), service(t, db, c)}
		must(t, replicas[0].Propose(exchange("a", "run_1"), pay(`{"to":"x","amount":1}`), nil))
		query := runs.Query{Agent: "a", Names: []string{"ledger__pay", "pay"}, Args: jsontext.Value(`{"amount":1.0,"to":"x"}`)}
		for i, s := range append(replicas, service(t, db, c)) {
			for range 2 { // reads use nothing up
				if m, ok := asked(t, s, query); !ok || m.Run != "run_1" || m.Call != "call_run_1" || m.Memory != "a/key" {
					t.Errorf("replica %d: %+v %v", i, m, ok)
				}
			}
		}
		var won atomic.Int32
		var kept runs.Match
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				q := query
				q.Claim = fmt.Sprint("call_", i)
				m, ok, err := replicas[i%3].Match(ctx, q)
				if err != nil {
					t.Error(err)
				}
				if ok {
					won.Add(1)
					kept = m
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d calls used one proposal", won.Load())
		}
		query.Claim = "call_again"
		if _, ok := asked(t, replicas[1], query); ok {
			t.Error("used twice")
		}
		must(t, replicas[2].Release(ctx, kept, c.at().Add(5*time.Hour))) // it waits for people
		c.pass(4 * time.Hour)
		if _, ok := asked(t, replicas[1], query); !ok {
			t.Error("not given back")
		}
		must(t, replicas[2].Release(ctx, kept, c.at())) // it is another call's by now
		query.Claim = "call_third"
		if _, ok := asked(t, replicas[1], query); ok {
			t.Error("given back by who does not hold it")
		}
	})
}

func TestSeveralProposalsAreUsedOneByOne(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		s := service(t, db, newClock())
		must(t, s.Propose(exchange("a", "run_1"), append(pay(`{}`), pay(`{}`)...), nil))
		used := 0
		for i := range 4 {
			if _, ok := asked(t, s, runs.Query{Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(`{}`), Claim: fmt.Sprint(i)}); ok {
				used++
			}
		}
		if used != 2 {
			t.Errorf("two proposals were used %d times", used)
		}
	})
}

func TestWhatWasNotProposed(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := newClock()
		s := service(t, db, c)
		args := `{"to":"DE1","amount":9007199254740993,"note":"é","list":[1,2]}`
		must(t, s.Propose(exchange("a", "run_1"), pay(args), nil))
		for name, q := range map[string]runs.Query{
			"another agent":       {Agent: "b", Names: []string{"pay"}, Args: jsontext.Value(args)},
			"another tool":        {Agent: "a", Names: []string{"Pay"}, Args: jsontext.Value(args)},
			"another run's token": {Agent: "a", Run: "run_2", Names: []string{"pay"}, Args: jsontext.Value(args)},
			"a rounded number":    {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(strings.Replace(args, "993", "992", 1))},
			"a number as a text":  {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(strings.Replace(args, "9007199254740993", `"9007199254740993"`, 1))},
			"another composition": {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(strings.Replace(args, "é", "e\u0301", 1))},
			"a name twice":        {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(strings.Replace(args, `{`, `{"to":"DE2",`, 1))},
			"one more":            {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(strings.Replace(args, `{`, `{"cc":null,`, 1))},
			"another order":       {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(strings.Replace(args, `[1,2]`, `[2,1]`, 1))},
			"something behind":    {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(args + "{}")},
			"a look-alike":        {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(strings.Replace(args, "DE1", "DЕ1", 1))},
			"no name":             {Agent: "a", Args: jsontext.Value(args)},
		} {
			for _, claim := range []string{"", "call"} {
				q.Claim = claim
				if m, ok := asked(t, s, q); ok {
					t.Errorf("%s counts as proposed: %+v", name, m)
				}
			}
		}
		same := `{ "list":[1e0, 20E-1], "note":"\u00e9", "amount": 9007199254740993.0, "to":"\u0044E1" }`
		if _, ok := asked(t, s, runs.Query{Agent: "a", Run: "run_1", Names: []string{"pay"}, Args: jsontext.Value(same)}); !ok {
			t.Error("the same values in another form do not count")
		}
		c.pass(runs.Fresh + time.Second)
		for _, q := range []runs.Query{{Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(args)}, {Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(args), Claim: "c"}} {
			if _, ok := asked(t, s, q); ok {
				t.Error("an old proposal counts")
			}
		}
	})
}

func TestWhatCannotBeReadIsNotProposed(t *testing.T) {
	s := service(t, storagetest.Open(t, storagetest.SQLite(t)), newClock())
	for _, args := range []string{`{"a":1,"a":2}`, "", "{", `{"a":1e99999999999}`, "{\"a\":\"\xff\"}", strings.Repeat("[", 100) + strings.Repeat("]", 100), `"` + strings.Repeat("x", 300<<10) + `"`} {
		must(t, s.Propose(exchange("a", "run_1"), pay(args), nil))
		if _, ok := asked(t, s, runs.Query{Agent: "a", Names: []string{"pay"}, Args: jsontext.Value(args)}); ok {
			t.Errorf("%.40q counts as proposed", args)
		}
	}
}

func TestARequestContinuesWhatItsLinksLeadTo(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := newClock()
		a, b := service(t, db, c), service(t, db, c)
		one, two := runs.Link{Kind: runs.LinkCall, Text: "call_0123456789"}, runs.Link{Kind: runs.LinkText, Text: "hello\nthere"}
		must(t, a.Propose(exchange("a", "run_1"), nil, []runs.Link{one}))
		c.pass(time.Second)
		must(t, a.Propose(runs.Exchange{Agent: "a", Run: "run_2", Memory: "a/other"}, nil, []runs.Link{two}))
		must(t, a.Close(ctx))
		for name, s := range map[string]*runs.Service{"here": a, "there": b} {
			got, err := s.Continue(ctx, "a", []runs.Link{{Kind: runs.LinkCall, Text: "invented"}, two, one}, false)
			must(t, err)
			if got.Run != "run_2" || len(got.Others) != 2 {
				t.Errorf("%s: %+v", name, got)
			}
			for _, forged := range [][]runs.Link{{{Kind: runs.LinkText, Text: one.Text}}, {{Kind: runs.LinkCall, Text: "call_9999999999"}}, nil} {
				if got, err := s.Continue(ctx, "a", forged, false); err != nil || got.Run != "" {
					t.Errorf("%s: a history that nobody had: %+v %v", name, got, err)
				}
			}
			if got, err := s.Continue(ctx, "b", []runs.Link{one, two}, false); err != nil || got.Run != "" {
				t.Errorf("%s: another agent's conversation: %+v %v", name, got, err)
			}
		}
		if got, err := b.Continue(ctx, "a", []runs.Link{one}, true); err != nil || got.Run != "" {
			t.Errorf("asked for what is near: %+v %v", got, err)
		}
		c.pass(runs.Keep + time.Hour)
		if got, err := b.Continue(ctx, "a", []runs.Link{one, two}, false); err != nil || got.Run != "" {
			t.Errorf("after half a day: %+v %v", got, err)
		}
	})
}

// A flood of answers fills neither memory nor tables, and of one answer only so
// much counts.
func TestAFloodIsBounded(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	c := newClock()
	s := service(t, db, c)
	many := make([]runs.Proposal, 1000)
	links := make([]runs.Link, 5000)
	for i := range many {
		many[i] = runs.Proposal{Tool: "pay", Args: jsontext.Value(fmt.Sprint(i))}
	}
	for i := range links {
		links[i] = runs.Link{Kind: runs.LinkCall, Text: fmt.Sprint("call_0123456789", i)}
	}
	for i := range 200 {
		must(t, s.Propose(exchange("a", fmt.Sprint("run_", i)), many, links))
	}
	must(t, s.Close(ctx))
	count := func(table string) (n int) {
		must(t, db.QueryRow(ctx, `SELECT COUNT(*) FROM `+table).Scan(&n))
		return n
	}
	if n := count("proposals") + count("links"); n == 0 || n > 6_000 {
		t.Errorf("%d rows after a flood within a minute", n)
	}
	if _, ok := asked(t, s, runs.Query{Agent: "a", Names: []string{"pay"}, Args: jsontext.Value("64")}); ok {
		t.Error("what is over the limit of an answer counts")
	}
	if got, err := s.Continue(ctx, "a", append(links[1000:1064:1064], links[0]), false); err != nil || got.Run != "" {
		t.Errorf("what is over the limit of a request counts: %+v %v", got, err)
	}
	must(t, s.Propose(exchange("b", "run_b"), pay("{}"), nil))
	if _, ok := asked(t, s, runs.Query{Agent: "b", Names: []string{"pay"}, Args: jsontext.Value("{}")}); !ok {
		t.Error("another agent pays for it")
	}
}

func TestOldRowsGo(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := newClock()
		s := service(t, db, c)
		must(t, s.Propose(exchange("a", "run_1"), pay("{}"), []runs.Link{{Kind: runs.LinkCall, Text: "call_0123456789"}}))
		_, err := s.Open(ctx, "agt_a", "key", "run_1", c.at(), time.Minute)
		must(t, err)
		c.pass(14 * time.Hour)
		must(t, s.Propose(exchange("a", "run_2"), pay("{}"), nil))
		deadline := time.Now().Add(30 * time.Second)
		for {
			var n int
			must(t, db.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM proposals) + (SELECT COUNT(*) FROM links) + (SELECT COUNT(*) FROM derived_runs)`).Scan(&n))
			if n == 1 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d rows stay", n)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func TestACredentialHasOneRunOnEveryReplica(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		c := newClock()
		a, b := service(t, db, c), service(t, db, c)
		open := func(s *runs.Service, credential, run string) string {
			t.Helper()
			o, err := s.Open(ctx, "agt_a", credential, run, c.at(), 15*time.Minute)
			must(t, err)
			return o.Run
		}
		if got := open(a, "key", "run_1") + open(b, "key", "run_2") + open(b, "other", "run_3"); got != "run_1run_1run_3" {
			t.Errorf("%s", got)
		}
		c.pass(10 * time.Minute)
		a.Touch("agt_a", "key", c.at())
		must(t, a.Close(ctx))
		c.pass(10 * time.Minute)
		if got := open(b, "key", "run_4"); got != "run_1" {
			t.Errorf("a run that was used meanwhile became %s", got)
		}
		c.pass(16 * time.Minute)
		if got := open(a, "key", "run_5"); got != "run_5" {
			t.Errorf("after a pause: %s", got)
		}
	})
}

func TestWithoutADatabase(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	s := service(t, db, newClock())
	db.Close()
	if err := s.Propose(exchange("a", "run_1"), pay("{}"), nil); err == nil {
		t.Error("proposed without writing it down")
	}
	if _, ok, err := s.Match(ctx, runs.Query{Agent: "a", Names: []string{"pay"}, Args: jsontext.Value("{}")}); ok || err == nil {
		t.Errorf("matched without looking: %v %v", ok, err)
	}
	if _, err := s.Continue(ctx, "a", []runs.Link{{Kind: runs.LinkCall, Text: "x"}}, false); err == nil {
		t.Error("continued without looking")
	}
	if _, err := s.Open(ctx, "a", "k", "r", time.Now(), time.Minute); err == nil {
		t.Error("opened without writing it down")
	}
}
