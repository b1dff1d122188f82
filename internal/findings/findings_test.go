package findings_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

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
}

func each(t *testing.T, fn func(w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		log, err := audit.Open(ctx, db, audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close(ctx) })
		fn(&world{findings.New(db, log, nil), t, db, log})
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
		w.open(drift) // what is still wrong is a new one
		if n := len(w.list(findings.Query{})); n != 2 {
			w.t.Errorf("%d findings", n)
		}
		err = w.log.Change(ctx, func(tx *audit.Tx) error {
			return w.CloseObjectTx(ctx, tx, person, drift.Object, "pinned anew", drift.Rule)
		})
		if n := len(w.list(findings.Query{Status: findings.Open})); err != nil || n != 0 {
			w.t.Errorf("%d open, %v", n, err)
		}
		if got := strings.Join(w.events(), " "); got != "finding.opened finding.closed finding.opened finding.closed" {
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
		for _, c := range []struct {
			status                            int
			method, path, body, must, mustNot string
		}{
			{200, "GET", "/api/v1/findings?status=open", "", `"object":"a"`, "closed_by"},
			{200, "GET", "/api/v1/findings?status=closed", "", `[]`, "{"},
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
