package retrieval_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/gateway/reach"
	"github.com/countersign/countersign/internal/knowledge"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
)

func (r *rig) told(name string) (reach.Told, error) {
	r.t.Helper()
	c, ok := r.Connections.Connection(name)
	if !ok {
		r.t.Fatalf("no connection %s", name)
	}
	return r.desk.Told(r.t.Context(), line.By, c)
}

func thing(t testing.TB, told reach.Told, name string) reach.Thing {
	t.Helper()
	i := slices.IndexFunc(told.Things, func(x reach.Thing) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("%s is not within reach of %+v", name, told.Things)
	}
	return told.Things[i]
}

func (r *rig) engine(name, dialect string, h http.HandlerFunc) {
	r.t.Helper()
	s := httptest.NewServer(h)
	r.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	m := mapping.Mapping{Index: "docs", Fields: fields}
	r.Register(connections.Connection{Name: name, Kind: connections.Retrieval, Dialect: dialect, URL: s.URL, Owner: "pat", AllowPrivate: true, Timeout: 30 * time.Second, Retrieval: &m, Secret: name + "-key"})
}

func TestWhatAnOpenSearchCredentialReaches(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	asked := 0
	for name, c := range map[string]struct {
		answers map[string]string // by path; what is not there is forbidden
		things  []string
		rights  []string // that write
		who     string
		unknown string
	}{
		"elasticsearch": {map[string]string{
			"/_cat/indices":               `[{"index":"docs","docs.count":"12"},{"index":"payroll","docs.count":"90"}]`,
			"/_security/user/_privileges": `{"cluster":["monitor"],"indices":[{"names":["docs"],"privileges":["read"]},{"names":["payroll"],"privileges":["all"]}],"run_as":["root"]}`,
		}, []string{"docs", "payroll"}, []string{"acts as root", "indices payroll: all"}, "", ""},
		"opensearch": {map[string]string{
			"/_cat/indices":                `[{"index":"docs","docs.count":"12"}]`,
			"/_plugins/_security/authinfo": `{"user_name":"search","roles":["all_access","readers"]}`,
		}, []string{"docs"}, []string{"role all_access"}, "search", "what its roles allow"},
		"tells nothing": {nil, []string{"docs"}, nil, "", "does not list them"},
	} {
		t.Run(name, func(t *testing.T) {
			lib := strings.ReplaceAll(name, " ", "-")
			r.engine(lib, connections.OpenSearch, func(w http.ResponseWriter, q *http.Request) {
				if q.Method != http.MethodGet || q.Header.Get("Authorization") != "Bearer "+line.Secret {
					t.Errorf("asked %s %s with %q", q.Method, q.URL, q.Header.Get("Authorization"))
				}
				w.Header().Set("Content-Type", "application/json")
				body, ok := c.answers[q.URL.Path]
				if !ok {
					w.WriteHeader(http.StatusForbidden)
				}
				_, _ = w.Write([]byte(body))
			})
			told, err := r.told(lib)
			if err != nil {
				t.Fatal(err)
			}
			var things, rights []string
			for _, x := range told.Things {
				things = append(things, x.Name)
				if x.Open != (x.Name == "docs") {
					t.Errorf("%s: open %v", x.Name, x.Open)
				}
			}
			for _, x := range told.Rights {
				if x.Write {
					rights = append(rights, x.Name)
				}
			}
			slices.Sort(rights)
			if !slices.Equal(things, c.things) || !slices.Equal(rights, c.rights) || told.Identity != c.who || !strings.Contains(strings.Join(told.Unknown, "; "), c.unknown) {
				t.Errorf("things %v, rights %v, who %q, unknown %q", things, rights, told.Identity, told.Unknown)
			}
			asked++
			if evs := r.Events(asked, audit.CallIntent); evs[0].Event.Reason != reach.Why || evs[0].Event.Actor.Kind != line.By.Kind {
				t.Errorf("the intent says %q by %v", evs[0].Event.Reason, evs[0].Event.Actor)
			}
		})
	}
}

func TestWhatAQdrantCredentialReaches(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	r.engine("lib", connections.Qdrant, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body, ok := map[string]string{
			"/collections":      `{"result":{"collections":[{"name":"wages"},{"name":"docs"},{"name":"../../etc"},{"name":"a?b"}]}}`,
			"/collections/docs": `{"result":{"points_count":7}}`,
		}[q.URL.Path]
		if !ok && q.URL.Path != "/collections/wages" {
			t.Errorf("asked %s", q.URL)
		}
		if !ok {
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = w.Write([]byte(body))
	})
	told, err := r.told("lib")
	if err != nil {
		t.Fatal(err)
	}
	if x := thing(t, told, "docs"); x.Count == nil || *x.Count != 7 || !x.Open {
		t.Errorf("docs: %+v", x)
	}
	if x := thing(t, told, "wages"); x.Count != nil || x.Open {
		t.Errorf("wages: %+v", x)
	}
	if len(told.Things) != 4 || len(told.Unknown) == 0 {
		t.Errorf("%+v", told)
	}
}

// A hostile engine makes neither a long answer nor a made-up one.
func TestAHostileEngineIsNotBelieved(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	for name, h := range map[string]http.HandlerFunc{
		"no JSON":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"twice":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"result":1,"result":2}`)) },
		"endless":    func(w http.ResponseWriter, _ *http.Request) { endless(w) },
		"gone":       func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
		"refuses us": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
	} {
		for _, dialect := range []string{connections.OpenSearch, connections.Qdrant} {
			t.Run(dialect+" "+name, func(t *testing.T) {
				lib := dialect + "-" + strings.ReplaceAll(strings.ToLower(name), " ", "-")
				r.engine(lib, dialect, h)
				if told, err := r.told(lib); err == nil {
					t.Errorf("believed: %+v", told)
				} else if strings.Contains(err.Error(), line.Secret) {
					t.Error(err)
				}
			})
		}
	}
	t.Run("many", func(t *testing.T) {
		r.engine("many", connections.OpenSearch, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path != "/_cat/indices" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			_, _ = w.Write([]byte(`[{"index":"a"}` + strings.Repeat(`,{"index":"b"}`, 3*reach.MostThings) + `]`))
		})
		told, err := r.told("many")
		if err != nil || len(told.Things) != reach.MostThings || !told.More {
			t.Errorf("%d things, more %v, %v", len(told.Things), told.More, err)
		}
	})
}

func endless(w http.ResponseWriter) {
	piece := []byte("[" + strings.Repeat(" ", 64<<10))
	for range 2 * reach.MaxAnswer / len(piece) {
		if _, err := w.Write(piece); err != nil {
			return
		}
	}
}

func TestWhatADatabaseRoleReaches(t *testing.T) {
	dsn := storagetest.Postgres(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	name := "reach_" + strings.ReplaceAll(strings.TrimPrefix(u.Path, "/"), "-", "_")
	who := pgx.Identifier{name}.Sanitize()
	if _, err := conn.Exec(t.Context(), `CREATE TABLE pages (id text, title text, body text, people text[]); INSERT INTO pages VALUES ('a', 'A', 'holiday', '{ann}'), ('b', 'B', 'holiday', '{ben}');
		CREATE TABLE wages (id text); CREATE TABLE hidden (id text); ALTER TABLE wages ENABLE ROW LEVEL SECURITY;
		CREATE ROLE `+who+` LOGIN PASSWORD 'a-pass-word-that-is-long'; GRANT SELECT ON pages TO `+who+`; GRANT SELECT, UPDATE (id) ON wages TO `+who+`; GRANT pg_read_all_settings TO `+who); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := conn.Exec(t.Context(), `DROP OWNED BY `+who+`; DROP ROLE `+who); err != nil {
			t.Error(err)
		}
	}()
	ask := func(login string) reach.Told {
		t.Helper()
		r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
		m := mapping.Mapping{Table: "pages", Fields: mapping.Fields{ID: "id", Title: "title", Text: "body", Users: "people"}}
		r.Register(connections.Connection{Name: "lib", Kind: connections.Retrieval, Dialect: connections.Postgres, URL: "postgres://" + u.Host + u.Path, Owner: "pat", AllowPrivate: true, Retrieval: &m, Secret: "lib-key", Auth: connections.AuthBasic})
		if _, err := r.Secrets.Put(t.Context(), line.By, line.Reason, secrets.Spec{Name: "lib-key", Owner: "pat", Connection: "lib", Hosts: []string{u.Host}}, secrets.NewValue([]byte(login))); err != nil {
			t.Fatal(err)
		}
		if err := r.Watch.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		told, err := r.told("lib")
		if err != nil {
			t.Fatal(err)
		}
		return told
	}
	told := ask(name + ":a-pass-word-that-is-long")
	if x := thing(t, told, "public.pages"); told.Identity != name || !x.Open || x.Write || x.Count == nil || *x.Count != 2 || x.About {
		t.Errorf("%s: pages: %+v", told.Identity, x)
	}
	if x := thing(t, told, "public.wages"); x.Open || !x.Write || !slices.Equal(x.Rights, []string{"select", "update", "row level security"}) {
		t.Errorf("wages: %+v", x)
	}
	if slices.ContainsFunc(told.Things, func(x reach.Thing) bool { return x.Name == "public.hidden" }) {
		t.Error("a table without any right is within reach")
	}
	if !slices.ContainsFunc(told.Rights, func(x reach.Right) bool { return x.Name == "acts as pg_read_all_settings" && !x.Write }) || slices.ContainsFunc(told.Rights, func(x reach.Right) bool { return x.Write }) {
		t.Errorf("rights: %+v", told.Rights)
	}
	user, password := u.User.Username(), "none"
	if p, ok := u.User.Password(); ok {
		password = p
	}
	mighty := ask(user + ":" + password)
	if !slices.ContainsFunc(mighty.Rights, func(x reach.Right) bool { return x.Name == "superuser" && x.Write }) || !thing(t, mighty, "public.hidden").Write {
		t.Errorf("a superuser's rights: %+v", mighty.Rights)
	}
}

func TestWhatIsKeptHereIsCounted(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	one := doc("a", "x", "everyone")
	one.Collection = "hr"
	r.put("handbook", one, doc("b", "y", "everyone"), knowledge.Document{ID: "c", Title: "C", Text: "z", Collection: "hr", Readers: []string{"everyone"}})
	told, err := r.told("handbook")
	if err != nil || *thing(t, told, "hr").Count != 2 || *thing(t, told, "(without a collection)").Count != 1 {
		t.Errorf("%+v, %v", told, err)
	}
}
