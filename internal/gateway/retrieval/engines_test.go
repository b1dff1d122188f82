package retrieval_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/engines"
	"github.com/countersign/countersign/test/line"
)

func library() map[string]engines.Document {
	return map[string]engines.Document{
		"holidays": {"title": "Holidays", "body": "Thirty days of holiday", "readers": []any{"everyone"}, "level": "internal", "source": "trusted"},
		"salaries": {"title": "Salaries", "body": "Salary and holiday of directors", "readers": []any{"group:finance", "user:fiona"}, "level": "confidential"},
		"notes":    {"title": "Notes", "body": "holiday rota", "readers": "user:ben"},
		"orphan":   {"title": "Orphan", "body": "holiday without readers"},
		"odd":      {"title": "Odd", "body": "holiday", "readers": map[string]any{"user": "alice"}},
		"mute":     {"title": "Mute", "readers": []any{"everyone"}},
	}
}

var fields = mapping.Fields{Title: "title", Text: "body", Readers: "readers", Classification: "level", Source: "source"}

// engineRigs are the engines over HTTP, each with a connection to it.
func engineRigs(t *testing.T, fn func(t *testing.T, r *rig, e *engines.Server)) {
	t.Helper()
	for dialect, m := range map[string]mapping.Mapping{
		connections.OpenSearch: {Index: "docs", Fields: fields},
		connections.Qdrant:     {Index: "docs", Fields: fields},
		connections.SearchAPI: {Fields: mapping.Fields{ID: "key", Title: "doc.title", Text: "doc.body", Readers: "doc.readers", Classification: "doc.level", Source: "doc.source"},
			Search: &mapping.Request{Path: "/api/search", Body: `{"q":"{{words}}","may":"{{readers}}","n":"{{limit}}"}`, Results: "items"},
			Get:    &mapping.Request{Path: "/api/search", Body: `{"q":"{{id}}","may":[]}`, Results: "items"}},
	} {
		t.Run(dialect, func(t *testing.T) {
			r, e := newRig(t, storagetest.Open(t, storagetest.SQLite(t))), engines.Start(t, library())
			r.Register(connections.Connection{Name: "lib", Kind: connections.Retrieval, Dialect: dialect, URL: e.URL, Owner: "pat", AllowPrivate: true, Timeout: 2 * time.Second, Retrieval: &m, Secret: "lib-key"})
			r.Policies(line.AllowAll)
			fn(t, r, e)
		})
	}
}

func TestEnginesAnswerForWhomTheAgentActs(t *testing.T) {
	engineRigs(t, func(t *testing.T, r *rig, e *engines.Server) {
		for _, lies := range []bool{false, true} {
			if lies {
				e.Lie()
			}
			for user, want := range map[string][]string{"": {"holidays"}, "alice": {"holidays"}, "fiona": {"holidays", "salaries"}, "ben": {"holidays", "notes"}} {
				r.is(user)
				a := r.search("lib", "holiday", 50)
				if got := slices.Sorted(slices.Values(a.ids)); a.status != http.StatusOK || !slices.Equal(got, want) {
					t.Errorf("lies %v, %q: %d %v, want %v", lies, user, a.status, got, want)
				}
				if strings.Contains(a.body, "score") || strings.Contains(a.body, "total") || strings.Contains(a.body, "count") || strings.Contains(a.body, line.Secret) {
					t.Errorf("the answer tells more than documents: %s", a.body)
				}
			}
		}
		r.is("alice")
		hidden, none := r.get("lib", "salaries"), r.get("lib", "nothing")
		if hidden.status != http.StatusNotFound || hidden.body != none.body || hidden.status != none.status {
			t.Errorf("hidden %d %s\nnone %d %s", hidden.status, hidden.body, none.status, none.body)
		}
		r.is("fiona")
		if a := r.get("lib", "salaries"); a.status != http.StatusOK || !strings.Contains(a.body, "directors") {
			t.Errorf("get: %d %s", a.status, a.body)
		}
		withheld := 0
		for _, ev := range r.Events(11, audit.CallOutcome) {
			if strings.Contains(string(ev.Event.Detail), "withheld") {
				withheld++
			}
		}
		if withheld == 0 {
			t.Error("no outcome tells that the engine returned what may not be read")
		}
	})
}

func TestEnginesAreAskedInValuesAlone(t *testing.T) {
	engineRigs(t, func(t *testing.T, r *rig, e *engines.Server) {
		r.is("alice")
		for _, q := range []string{`holiday"}},{"match_all":{}}`, `{"match_all":{}}`, `{{readers}}`, `holiday OR readers:*`, `"},"may":["user:fiona"],"x":{"y":"`, `\u0022`, "*", "holiday\n"} {
			a := r.search("lib", q, 50)
			if a.status != http.StatusOK || slices.Contains(a.ids, "salaries") {
				t.Errorf("%q: %d %v", q, a.status, a.ids)
			}
		}
		for _, id := range []string{`salaries" OR "1"="1`, `*`, `../docs`, `salaries"]}},{"match_all":{`, "a/b?c#d"} {
			if a := r.get("lib", id); a.status != http.StatusNotFound {
				t.Errorf("get %q: %d %s", id, a.status, a.body)
			}
		}
		for _, asked := range e.Asked() {
			if strings.Contains(asked, `"match_all":{`) || strings.Contains(asked, `"may":["user:fiona"]`) {
				t.Errorf("the engine was asked %s", asked)
			}
		}
	})
}

func TestEnginesThatFailTellNothing(t *testing.T) {
	engineRigs(t, func(t *testing.T, r *rig, e *engines.Server) {
		deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
		for name, h := range map[string]http.HandlerFunc{
			"error": func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "the secret merger", http.StatusInternalServerError)
			},
			"no JSON": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the secret merger") },
			"twice": func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, `{"items":[],"items":["the secret merger"]}`)
			},
			"deep": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, deep) },
			"huge": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"x":"`+strings.Repeat("a", 17<<20)+`"}`) },
			"redirect": func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
			},
			"signed in": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
			"hangs":     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		} {
			e.Instead(h)
			if a := r.search("lib", "holiday", 5); a.status < 500 || strings.Contains(a.body, "merger") {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
	})
}

// library in PostgreSQL: the real one.
func TestATableOfPostgreSQL(t *testing.T) {
	dsn := storagetest.Postgres(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `CREATE TABLE pages ("Key" text, title text, body text, people text[], teams text[], level text);
		INSERT INTO pages VALUES ('holidays', 'Holidays', 'Thirty days of holiday', '{ann,alice}', NULL, 'internal'), ('salaries', 'Salaries', 'Salary and holiday', '{fiona}', '{finance}', 'confidential'),
			('orphan', 'Orphan', 'holiday', NULL, '{}', NULL), ('twice', 'A', 'holiday one', '{ann}', NULL, NULL), ('twice', 'B', 'holiday two', '{bea}', NULL, NULL)`)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	if password == "" {
		password = "none" // the server trusts this machine
	}
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	m := mapping.Mapping{Table: "pages", Language: "english", Fields: mapping.Fields{ID: "Key", Title: "title", Text: "body", Users: "people", Groups: "teams", Classification: "level"}}
	r.Register(connections.Connection{Name: "lib", Kind: connections.Retrieval, Dialect: connections.Postgres, URL: "postgres://" + u.Host + u.Path, Owner: "pat", AllowPrivate: true, Retrieval: &m, Secret: "lib-key", Auth: connections.AuthBasic})
	if _, err := r.Secrets.Put(t.Context(), line.By, line.Reason, secrets.Spec{Name: "lib-key", Owner: "pat", Connection: "lib", Hosts: []string{u.Host}}, secrets.NewValue([]byte(u.User.Username()+":"+password))); err != nil {
		t.Fatal(err)
	}
	if err := r.Watch.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Policies(line.AllowAll)
	for _, c := range []struct {
		user, group, query string
		want               []string
	}{
		{"alice", "staff", "holidays", []string{"holidays"}}, {"fiona", "", "holiday", []string{"salaries"}}, {"greta", "finance", "holiday", []string{"salaries"}},
		{"ann", "", "holiday", []string{"holidays", "twice"}}, {"", "", "holiday", nil}, {"x", "", `holiday'); DROP TABLE pages; --`, nil}, {"x'} OR TRUE --", "", "holiday", nil},
		{"alice", "", `holiday & !thirty | "`, []string{"holidays"}}, {"alice", "", "':*", nil},
	} {
		r.is(c.user, c.group)
		a := r.search("lib", c.query, 50)
		if got := slices.Sorted(slices.Values(a.ids)); a.status != http.StatusOK || !slices.Equal(got, c.want) {
			t.Errorf("%+v: %d %v %s", c, a.status, got, a.body)
		}
	}
	r.is("alice")
	if a, b := r.get("lib", "salaries"), r.get("lib", "x' OR '1'='1"); a.status != 404 || a.body != b.body {
		t.Errorf("hidden %d %s, none %d %s", a.status, a.body, b.status, b.body)
	}
	if a := r.get("lib", "holidays"); a.status != 200 {
		t.Errorf("get: %d %s", a.status, a.body)
	}
	if _, err := conn.Exec(t.Context(), `ALTER TABLE pages RENAME TO gone`); err != nil {
		t.Fatal(err)
	}
	if a := r.search("lib", "holiday", 5); a.status < 500 || strings.Contains(a.body, "pages") {
		t.Errorf("without its table: %d %s", a.status, a.body)
	}
}
