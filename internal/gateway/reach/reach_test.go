package reach_test

import (
	"context"
	"encoding/json/jsontext"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway/reach"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/use"
	"github.com/countersign/countersign/test/line"
)

// rig is a line whose upstreams are asked.
type rig struct {
	*line.Line
	*reach.Service
	t    *testing.T
	defs []connections.Definition // of every MCP server
	uses []use.Use
}

// Discover is an MCP server that lists defs.
func (r *rig) Discover(context.Context, audit.Actor, connections.Connection) ([]connections.Definition, error) {
	return r.defs, nil
}

// Told is an engine with two tables.
func (r *rig) Told(context.Context, audit.Actor, connections.Connection) (reach.Told, error) {
	return reach.Told{Things: []reach.Thing{{Kind: reach.Table, Name: "public.pages", Rights: []string{"select"}, Open: true},
		{Kind: reach.Table, Name: "public.wages" + strings.Repeat("e", 1000) + "\xff", Rights: []string{"update"}, Write: true}}, Rights: []reach.Right{{Name: "superuser", Write: true}}}, nil
}

func start(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t}
	r.Line = line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{})
	r.Service = reach.New(reach.Options{Line: r.Gateway, Tools: r.Connections, MCP: r, Engines: r, Claims: r.Secrets.Claims, Redact: r.Scanner.Redact,
		Uses: func(_ context.Context, q use.Query) (out []use.Use, _ use.Watched, _ error) {
			for _, u := range r.uses {
				if u.Connection == q.Connection && !u.LastAllowed.Before(q.Since) {
					out = append(out, u)
				}
			}
			return out, use.Watched{}, nil
		}})
	return r
}

func (r *rig) serve(h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	r.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

func (r *rig) show(name string) reach.Reach {
	r.t.Helper()
	got, err := r.Show(r.t.Context(), line.By, name, 30)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

func find(t *testing.T, r reach.Reach, name string) reach.Thing {
	t.Helper()
	i := slices.IndexFunc(r.Things, func(x reach.Thing) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("%s is not in %+v", name, r.Things)
	}
	return r.Things[i]
}

func TestModelsBesideWhatWasUsed(t *testing.T) {
	r := start(t)
	r.Connect("openai", connections.OpenAI, r.serve(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodGet || q.URL.Path != "/v1/models" || q.Header.Get("Authorization") != "Bearer "+line.Secret {
			t.Errorf("asked %s %s with %q", q.Method, q.URL, q.Header.Get("Authorization"))
		}
		fmt.Fprintf(w, `{"data":[{"id":"gpt-5"},{"id":"%s"},{"id":""}]}`, line.Secret)
	}))
	now := time.Now()
	r.uses = []use.Use{{Agent: "a", Connection: "openai", Tool: "chat.completions", Allowed: 3, LastAllowed: now}, {Agent: "b", Connection: "openai", Tool: "chat.completions", Denied: 2},
		{Agent: "old", Connection: "openai", Tool: "models", Allowed: 9, LastAllowed: now.AddDate(0, 0, -40)}}
	got := r.show("openai")
	if x := find(t, got, "gpt-5"); x.Kind != reach.Model || x.Calls != nil {
		t.Errorf("a model: %+v", x)
	}
	if x := find(t, got, "chat.completions"); x.Calls == nil || *x.Calls != 3 || !slices.Equal(x.Agents, []string{"a"}) {
		t.Errorf("what was used: %+v", x)
	}
	if x := find(t, got, "models"); *x.Calls != 0 || got.Unused == 0 || len(got.Callers) != 1 {
		t.Errorf("what was not used in time: %+v of %+v", x, got.Callers)
	}
	if s := fmt.Sprint(got); strings.Contains(s, line.Secret) {
		t.Errorf("the upstream's answer repeats our secret: %s", s)
	}
}

// The rights of a token are those that the API says, and what writes is marked
// when agents only read.
func TestScopesOfATokenThatIsReadWith(t *testing.T) {
	r := start(t)
	url := r.serve(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("X-OAuth-Scopes", "repo, read:org, admin:org_hook")
		w.WriteHeader(http.StatusNotFound)
	})
	r.Register(connections.Connection{Name: "hub", Kind: connections.HTTP, URL: url, Owner: "pat", AllowPrivate: true, Secret: "hub-key"})
	declare := func(lines map[string]string) {
		t.Helper()
		err := r.Log.Change(t.Context(), func(tx *audit.Tx) error {
			_, err := r.Connections.DeclareTx(t.Context(), tx, line.By, line.Reason, "hub", lines, nil)
			return err
		})
		if err == nil {
			err = r.Watch.Poll(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	declare(map[string]string{"list_issues": "GET /issues"})
	got := r.show("hub")
	var excess []string
	for _, x := range got.Rights {
		if x.Excess {
			excess = append(excess, x.Name)
		}
	}
	if !got.ReadOnly || !slices.Equal(excess, []string{"repo", "admin:org_hook"}) || got.Excess != 2 || len(got.Rights) != 3 {
		t.Errorf("read only %v: %+v", got.ReadOnly, got.Rights)
	}
	declare(map[string]string{"list_issues": "GET /issues", "open_issue": "POST /issues"})
	if got := r.show("hub"); got.ReadOnly || got.Excess != 0 {
		t.Errorf("a connection that writes is marked: %+v", got)
	}
}

func TestToolsThatNobodyAcceptedAreWithinReach(t *testing.T) {
	r := start(t)
	def := func(name string, readOnly bool) connections.Definition {
		return connections.Definition{Name: name, Raw: jsontext.Value(fmt.Sprintf(`{"name":%q,"inputSchema":{"type":"object"},"annotations":{"readOnlyHint":%v}}`, name, readOnly))}
	}
	r.Connections.SetDiscoverer(r)
	r.defs = []connections.Definition{def("list", true)}
	r.Register(connections.Connection{Name: "desk", Kind: connections.MCP, URL: r.serve(http.NotFound), Owner: "pat", AllowPrivate: true})
	if _, err := r.Connections.Refresh(t.Context(), line.By, line.Reason, "desk"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Connections.SetEffect(t.Context(), line.By, line.Reason, "desk", "list", connections.Read); err != nil {
		t.Fatal(err)
	}
	r.defs = append(r.defs, def("wipe", false))
	got := r.show("desk")
	if x := find(t, got, "list"); x.Status != connections.StatusPinned || !x.Open || x.Excess {
		t.Errorf("list: %+v", x)
	}
	if x := find(t, got, "wipe"); x.Status != connections.StatusNew || x.Open || !x.Excess {
		t.Errorf("wipe: %+v", x)
	}
	if _, known := r.Connections.Tool("desk", "wipe"); known {
		t.Error("asking wrote down a tool")
	}
}

func TestWhatAnEngineTellsIsCutAndMarked(t *testing.T) {
	r := start(t)
	r.Register(connections.Connection{Name: "handbook", Kind: connections.Retrieval, Dialect: connections.Embedded, Owner: "pat"})
	r.uses = []use.Use{{Agent: "a", Connection: "handbook", Tool: "search", Allowed: 4, LastAllowed: time.Now()}}
	got := r.show("handbook")
	if x := find(t, got, "public.pages"); *x.Calls != 4 || x.Excess {
		t.Errorf("the connection's own: %+v", x)
	}
	if x := got.Things[1]; *x.Calls != 0 || !x.Excess || len(x.Name) > 300 || got.Unused != 1 || got.Excess != 2 || !got.Rights[0].Excess {
		t.Errorf("the other: %+v of %+v", x, got)
	}
}

func TestAForgeTellsItsRepositories(t *testing.T) {
	r := start(t)
	r.Register(connections.Connection{Name: "code", Kind: connections.HTTP, Dialect: connections.Git, Owner: "pat", AllowPrivate: true, Secret: "code-key", Auth: connections.AuthBearer, URL: r.serve(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.URL.Path == "/api/v1/user/repos":
			w.WriteHeader(http.StatusUnauthorized) // no such door for this credential: the next is tried
		case q.URL.Query().Get("page") == "1":
			fmt.Fprint(w, `[{"full_name":"acme/site","permissions":{"admin":false,"push":true,"pull":true}},{"full_name":"acme/docs","permissions":{"pull":true}}]`)
		default:
			fmt.Fprint(w, `[]`)
		}
	})})
	got := r.show("code")
	if x := find(t, got, "acme/site"); !x.Write || !slices.Equal(x.Rights, []string{"pull", "push"}) {
		t.Errorf("site: %+v", x)
	}
	if x := find(t, got, "acme/docs"); x.Write || x.Calls != nil {
		t.Errorf("docs: %+v", x)
	}
}

func TestAnUpstreamThatCannotBeAsked(t *testing.T) {
	r := start(t)
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	for name, c := range map[string]struct{ url, says string }{
		"dead":    {dead.URL, "could not be reached"},
		"refuses": {r.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }), "credential"},
		"garbles": {r.serve(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{") }), "cannot be read"},
		"floods": {r.serve(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"data":[`, strings.Repeat(" ", reach.MaxAnswer), `]}`)
		}), "over"},
	} {
		t.Run(name, func(t *testing.T) {
			r.Connect(name, connections.OpenAI, c.url)
			got, err := r.Show(t.Context(), line.By, name, 30)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; %+v", err, got)
			}
		})
	}
	if _, err := r.Show(t.Context(), line.By, "nobody", 30); err == nil {
		t.Error("what is not there was asked")
	}
}
