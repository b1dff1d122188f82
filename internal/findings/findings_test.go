package findings_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var ctx = context.Background()

type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

type world struct {
	*findings.Service
	t   *testing.T
	db  *storage.DB
	log *audit.Log
	now time.Time
}

func each(t *testing.T, fn func(w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		log, err := audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close(ctx) })
		w := &world{t: t, db: db, log: log, now: time.Now()}
		w.Service = findings.New(db, log, func() time.Time { return w.now })
		fn(w)
	})
}

func (w *world) list(q findings.Query) []findings.Finding {
	w.t.Helper()
	found, err := w.List(ctx, q)
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

func (w *world) open(f findings.Finding) {
	w.t.Helper()
	if err := w.Open(ctx, f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) events() (types []string) {
	w.t.Helper()
	rows, err := w.db.Query(ctx, `SELECT type FROM events WHERE lane = 0 ORDER BY sn`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var t string
		if err := rows.Scan(&t); err != nil {
			w.t.Fatal(err)
		}
		types = append(types, t)
	}
	return types
}

var (
	drift  = findings.Finding{Rule: "tool.drifted", Severity: findings.High, Object: "tool/ledger/pay_invoice", Title: "The definition changed", Events: []string{"evt_1"}}
	person = audit.Person("usr_1", "ada")
)

func TestTheSameIsOneFinding(t *testing.T) {
	each(t, func(w *world) {
		w.open(drift)
		w.open(drift)
		if got := strings.Join(w.events(), " "); got != "finding.opened" {
			w.t.Errorf("seeing the same again wrote: %s", got)
		}
		more := drift
		more.Severity, more.Detail, more.Events = findings.Critical, "and again", []string{"evt_2"}
		w.open(more)
		other := drift
		other.Object = "tool/ledger/list_invoices"
		w.open(other)
		found := w.list(findings.Query{Object: drift.Object})
		if len(found) != 1 || found[0].Severity != findings.Critical || found[0].Detail != "and again" || strings.Join(found[0].Events, " ") != "evt_1 evt_2" {
			w.t.Errorf("%+v", found)
		}
		if n := len(w.list(findings.Query{Status: findings.Open, Rule: "tool.drifted"})); n != 2 {
			w.t.Errorf("%d open", n)
		}
	})
}

func TestOpenedByManyAtOnce(t *testing.T) {
	each(t, func(w *world) {
		const many = 8
		var wg, begun sync.WaitGroup
		begun.Add(many)
		for range many {
			var once sync.Once
			wg.Go(func() {
				err := w.log.Change(ctx, func(tx *audit.Tx) error {
					if w.db.Dialect() == storage.Postgres { // SQLite lets in one at a time
						once.Do(func() { begun.Done(); begun.Wait() })
					}
					return w.OpenTx(ctx, tx, drift)
				})
				if err != nil {
					w.t.Error(err)
				}
			})
		}
		wg.Wait()
		if n, e := len(w.list(findings.Query{})), len(w.events()); n != 1 || e != 1 {
			w.t.Errorf("%d findings, %d events", n, e)
		}
	})
}

func TestClosing(t *testing.T) {
	each(t, func(w *world) {
		w.open(drift)
		f := w.list(findings.Query{})[0]
		for what, c := range map[string]struct {
			id, reason string
			want       error
		}{
			"no reason":  {f.ID, " ", findings.ErrReason},
			"long":       {f.ID, strings.Repeat("x", 1001), findings.ErrReason},
			"NUL":        {f.ID, "a\x00b", findings.ErrReason},
			"not UTF-8":  {f.ID, "\xff", findings.ErrReason},
			"unknown id": {"fnd_x", "why", findings.ErrNotFound},
		} {
			if err := w.Close(ctx, person, c.id, c.reason); !errors.Is(err, c.want) {
				w.t.Errorf("%s: %v", what, err)
			}
		}
		if err := w.Close(ctx, person, f.ID, "accepted"); err != nil {
			w.t.Fatal(err)
		}
		if err := w.Close(ctx, person, f.ID, "again"); !errors.Is(err, findings.ErrClosed) {
			w.t.Errorf("closed twice: %v", err)
		}
		got, err := w.Get(ctx, f.ID)
		if err != nil || got.Status != findings.Closed || got.ClosedBy != "ada" || got.Reason != "accepted" || got.Closed.IsZero() {
			w.t.Errorf("%+v %v", got, err)
		}
		w.open(drift) // what is still wrong comes back
		got, err = w.Get(ctx, f.ID)
		if err != nil || got.Status != findings.Open || got.Reopened != 1 || got.Count != 2 || got.ClosedBy != "" || !got.Closed.IsZero() || len(w.list(findings.Query{})) != 1 {
			w.t.Errorf("%+v %v", got, err)
		}
		if h := got.History; len(h) != 2 || h[0].Act != "closed" || h[0].By != "ada" || h[0].Reason != "accepted" || h[1].Act != "reopened" {
			w.t.Errorf("%+v", h)
		}
		err = w.log.Change(ctx, func(tx *audit.Tx) error {
			return w.CloseObjectTx(ctx, tx, person, drift.Object, "pinned anew", drift.Rule)
		})
		if n := len(w.list(findings.Query{Status: findings.Open})); err != nil || n != 0 {
			w.t.Errorf("%d open, %v", n, err)
		}
		if got := strings.Join(w.events(), " "); got != "finding.opened finding.closed finding.reopened finding.closed" {
			w.t.Error(got)
		}
	})
}

func TestWhatIsRefusedAndWhatIsCut(t *testing.T) {
	each(t, func(w *world) {
		for what, change := range map[string]func(f *findings.Finding){
			"rule":     func(f *findings.Finding) { f.Rule = "No Rule" },
			"severity": func(f *findings.Finding) { f.Severity = "bad" },
			"object":   func(f *findings.Finding) { f.Object = "" },
			"title":    func(f *findings.Finding) { f.Title = "" },
		} {
			f := drift
			change(&f)
			if err := w.Open(ctx, f); !errors.Is(err, findings.ErrInvalid) {
				w.t.Errorf("%s: %v", what, err)
			}
		}
		f := drift
		f.Title, f.Detail = "\x00\xff", strings.Repeat("ä", 100_000)
		for range 200 {
			f.Events = append(f.Events, "evt_x")
		}
		w.open(f)
		got := w.list(findings.Query{})[0]
		if len(got.Detail) > 9<<10 || len(got.Events) > 50 || strings.Contains(got.Detail, "\uFFFD") {
			w.t.Errorf("%d bytes of detail, %d events", len(got.Detail), len(got.Events))
		}
		w.open(f) // the same after cutting, too
		if n := len(w.events()); n != 1 {
			w.t.Errorf("%d events", n)
		}
	})
}

func TestPagesAndAPI(t *testing.T) {
	each(t, func(w *world) {
		for _, object := range []string{"a", "b", "c"} {
			f := drift
			f.Object = object
			w.open(f)
		}
		first := w.list(findings.Query{Limit: 2})
		rest2 := w.list(findings.Query{Limit: 2, Before: first[1].ID})
		if len(first) != 2 || len(rest2) != 1 {
			w.t.Fatalf("%d and %d", len(first), len(rest2))
		}
		if _, err := w.List(ctx, findings.Query{Before: "x'"}); !errors.Is(err, findings.ErrCursor) {
			w.t.Error(err)
		}
		mux := http.NewServeMux()
		w.Routes(rest.New(mux, "test", func(context.Context, string) (rest.Caller, error) {
			return rest.Caller{ID: "usr_1", Name: "ada", Role: "admin"}, nil
		}, slog.New(slog.DiscardHandler)))
		tomorrow := w.now.Add(24 * time.Hour).UTC().Format(time.RFC3339)
		for _, c := range []struct {
			status                            int
			method, path, body, must, mustNot string
		}{
			{200, "GET", "/api/v1/findings?status=open", "", `"object":"a"`, "closed_by"},
			{200, "GET", "/api/v1/findings?status=closed", "", `[]`, "{"},
			{200, "GET", "/api/v1/findings?state=open&agent=nobody", "", `[]`, "{"},
			{422, "GET", "/api/v1/findings?state=odd", "", ``, "evt_"},
			{200, "POST", "/api/v1/findings/" + first[1].ID + "/mute", `{"until":"` + tomorrow + `","reason":"fine"}`, `"state":"muted"`, "closed_by"},
			{200, "GET", "/api/v1/finding-mutes", "", `"by":"ada"`, "null"},
			{200, "POST", "/api/v1/findings/" + first[1].ID + "/unmute", `{"reason":"fine"}`, `"state":"open"`, "muted_until"},
			{201, "POST", "/api/v1/finding-mutes", `{"agent":"bot","until":"` + tomorrow + `","reason":"fine"}`, `"agent":"bot"`, "rule"},
			{422, "POST", "/api/v1/finding-mutes", `{"agent":"bot","reason":"fine"}`, `until`, "evt_"},
			{200, "POST", "/api/v1/findings/" + first[1].ID + "/tune", `{"note":"higher"}`, `"tune":"higher"`, "closed_by"},
			{404, "POST", "/api/v1/finding-mutes/mut_x/end", `{"reason":"fine"}`, `mute_not_found`, "evt_"},
			{422, "GET", "/api/v1/findings?status=odd", "", ``, "evt_"},
			{404, "GET", "/api/v1/findings/fnd_x", "", `finding_not_found`, "evt_"},
			{200, "POST", "/api/v1/findings/" + first[0].ID + "/close", `{"reason":"fine"}`, `"closed_by":"ada"`, "open\""},
			{400, "POST", "/api/v1/findings/" + first[1].ID + "/close", `{}`, `reason_required`, "evt_"},
		} {
			req := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			req.Header.Set("Authorization", "Bearer x")
			req.Header.Set("Content-Type", "application/json")
			answer := httptest.NewRecorder()
			mux.ServeHTTP(answer, req)
			body := answer.Body.String()
			if answer.Code != c.status || !strings.Contains(body, c.must) || strings.Contains(body, c.mustNot) {
				w.t.Errorf("%s %s: %d %s", c.method, c.path, answer.Code, body)
			}
		}
	})
}

func TestAFloodIsOneFindingAndFewEvents(t *testing.T) {
	each(t, func(w *world) {
		start := w.now
		const many = 300
		for i := range many {
			w.now = w.now.Add(time.Millisecond)
			f := drift
			f.Events, f.Detail = []string{fmt.Sprintf("evt_%d", i)}, fmt.Sprintf("seen %d times", i+1)
			w.open(f)
		}
		found := w.list(findings.Query{})
		if len(found) != 1 || found[0].Count != many || len(found[0].Events) != 50 || found[0].Events[49] != "evt_299" || found[0].Detail != "seen 300 times" {
			w.t.Fatalf("%+v", found)
		}
		if f := found[0]; f.First.Sub(start) > time.Second || f.Seen.Sub(f.First) != (many-1)*time.Millisecond {
			w.t.Errorf("from %s to %s", f.First, f.Seen)
		}
		if n := len(w.events()); n != 9 { // opened, and at 2, 4 ... 256
			w.t.Errorf("%d events", n)
		}
		w.now = w.now.Add(2 * time.Minute)
		w.open(drift) // evt_1 is not among the latest 50 any more
		if n := len(w.events()); n != 10 {
			w.t.Errorf("%d events after a while", n)
		}
		sum := drift
		sum.Events, sum.Count = []string{"evt_a", "evt_b"}, 40
		w.open(sum)
		if got := w.list(findings.Query{})[0].Count; got != many+1+40 {
			w.t.Errorf("counted %d", got)
		}
	})
}

func TestManyThingsOfOneRule(t *testing.T) {
	each(t, func(w *world) {
		w.Allow(3)
		for i := range 10 {
			f := drift
			f.Object, f.Events = fmt.Sprintf("tool/ledger/%d", i), []string{fmt.Sprintf("evt_%d", i)}
			w.open(f)
		}
		other := drift
		other.Rule = "tool.new"
		w.open(other)
		if n := len(w.list(findings.Query{})); n != 5 {
			w.t.Errorf("%d findings", n)
		}
		more := w.list(findings.Query{Object: findings.OverflowObject})
		if len(more) != 1 || more[0].Count != 7 || !strings.Contains(more[0].Detail, "tool/ledger/9") {
			w.t.Errorf("%+v", more)
		}
		again := drift
		again.Object, again.Events = "tool/ledger/1", []string{"evt_x"}
		w.open(again) // one that is open already has its place
		if found := w.list(findings.Query{Object: again.Object}); len(found) != 1 || found[0].Count != 2 {
			w.t.Errorf("%+v", found)
		}
	})
}

func TestMuting(t *testing.T) {
	each(t, func(w *world) {
		w.open(drift)
		mine := findings.Finding{Rule: "agent.odd", Severity: findings.Low, Object: "agent/bot", Title: "odd"}
		w.open(mine)
		review := findings.Finding{Rule: "glass.broken", Severity: findings.High, Object: "approval/1", Title: "review it", NotBy: person.ID, Agent: "bot"}
		w.open(review)
		state := func(rule string) string { return w.list(findings.Query{Rule: rule})[0].State }
		day := w.now.Add(24 * time.Hour)
		for what, c := range map[string]struct {
			m      findings.Mute
			reason string
			want   error
		}{
			"nothing":   {findings.Mute{Until: day}, "why", findings.ErrMuteWhat},
			"bad rule":  {findings.Mute{Rule: "No Rule", Until: day}, "why", findings.ErrMuteWhat},
			"past":      {findings.Mute{Rule: "a", Until: w.now}, "why", findings.ErrMuteUntil},
			"for ever":  {findings.Mute{Rule: "a", Until: w.now.AddDate(2, 0, 0)}, "why", findings.ErrMuteUntil},
			"no reason": {findings.Mute{Rule: "a", Until: day}, "", findings.ErrReason},
		} {
			if _, err := w.Mute(ctx, person, c.m, c.reason); !errors.Is(err, c.want) {
				w.t.Errorf("%s: %v", what, err)
			}
		}
		id := w.list(findings.Query{Rule: drift.Rule})[0].ID
		if _, err := w.MuteFinding(ctx, person, id, day, "known"); err != nil {
			w.t.Fatal(err)
		}
		agent, err := w.Mute(ctx, person, findings.Mute{Agent: "bot", Until: day}, "being moved")
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.MuteFinding(ctx, person, w.list(findings.Query{Rule: review.Rule})[0].ID, day, "mine"); !errors.Is(err, findings.ErrNotYou) {
			w.t.Errorf("muted what they may not close: %v", err)
		}
		if a, b, c := state(drift.Rule), state(mine.Rule), state(review.Rule); a != findings.Muted || b != findings.Muted || c != findings.Open {
			w.t.Errorf("%s %s %s", a, b, c)
		}
		if open, muted, status := len(w.list(findings.Query{State: findings.Open})), len(w.list(findings.Query{State: findings.Muted})), len(w.list(findings.Query{Status: findings.Open})); open != 1 || muted != 2 || status != 3 {
			w.t.Errorf("%d open, %d muted, %d of both", open, muted, status)
		}
		more := drift
		more.Events = []string{"evt_9"}
		w.open(more) // it is counted as ever
		if f := w.list(findings.Query{Rule: drift.Rule})[0]; f.Count != 2 || f.State != findings.Muted || !f.MutedTo.Equal(day.UTC().Truncate(time.Microsecond)) {
			w.t.Errorf("%+v", f)
		}
		if _, err := w.UnmuteFinding(ctx, person, id, "looked at"); err != nil || state(drift.Rule) != findings.Open {
			w.t.Errorf("%s %v", state(drift.Rule), err)
		}
		if _, err := w.UnmuteFinding(ctx, person, id, "again"); !errors.Is(err, findings.ErrNoMute) {
			w.t.Error(err)
		}
		w.now = day
		if mutes, err := w.Mutes(ctx); err != nil || len(mutes) != 0 || state(mine.Rule) != findings.Open {
			w.t.Errorf("%v %v %s", mutes, err, state(mine.Rule))
		}
		if _, err := w.Unmute(ctx, person, agent.ID, "late"); !errors.Is(err, findings.ErrNoMute) {
			w.t.Error(err)
		}
		if got := strings.Join(w.events()[3:], " "); got != "finding.muted finding.muted finding.updated finding.unmuted" {
			w.t.Error(got)
		}
	})
}

func TestTuningNotesAndAgents(t *testing.T) {
	each(t, func(w *world) {
		w.open(drift)
		w.open(findings.Finding{Rule: "agent.odd", Severity: findings.Low, Object: "agent/bot", Title: "odd"})
		id := w.list(findings.Query{Agent: "bot"})[0].ID
		if err := w.Tune(ctx, person, id, " "); !errors.Is(err, findings.ErrReason) {
			w.t.Error(err)
		}
		if err := w.Tune(ctx, person, id, "batch agents need 500 an hour"); err != nil {
			w.t.Fatal(err)
		}
		found := w.list(findings.Query{Tuned: true})
		if len(found) != 1 || found[0].Tune != "batch agents need 500 an hour" || found[0].History[0].By != "ada" {
			w.t.Errorf("%+v", found)
		}
		if got := w.events(); got[len(got)-1] != "finding.tuned" {
			w.t.Error(got)
		}
	})
}
