package rest_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/rest"
)

// The documentation says what the table says.
func TestRolesAreDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/roles.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|"); len(cells) == 2+len(rest.Roles) {
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows[strings.Trim(cells[0], "`")] = cells[2:]
		}
	}
	for i, role := range rows["need"] {
		if role != rest.Roles[i] {
			t.Fatalf("columns: %v", rows["need"])
		}
	}
	for _, n := range rest.Needs {
		for i, role := range rest.Roles {
			want := map[bool]string{true: "yes"}[rest.RoleMay(role, n)]
			if role == rest.Owner && (n == rest.Own || n == rest.Inspect) {
				want = "own" // of agents: search.Options.Owns
			}
			if len(rows[n.String()]) != len(rest.Roles) || rows[n.String()][i] != want {
				t.Errorf("docs/roles.md, %s of %s: %v, want %q", n, role, rows[n.String()], want)
			}
		}
	}
}

func TestNobodyIsLetInForLackOfARole(t *testing.T) {
	for _, role := range []string{"", "root", "Admin"} {
		for _, n := range rest.Needs {
			if rest.RoleMay(role, n) {
				t.Errorf("the role %q may %s", role, n)
			}
		}
	}
	if err := (rest.Caller{Role: rest.Viewer}).Refuse(rest.Govern); !errors.Is(err, rest.ErrRole) || !strings.Contains(err.Error(), "needs the role admin") {
		t.Error(err)
	}
}

// An owner manages what is theirs and nothing else; who may write, anything.
func TestOwn(t *testing.T) {
	var asked []string
	role := rest.Owner
	mux := http.NewServeMux()
	api := rest.New(mux, "test", func(context.Context, string) (rest.Caller, error) { return rest.Caller{Name: "ada", Role: role}, nil }, slog.New(slog.DiscardHandler))
	api.Owns = func(_ context.Context, user, object string) (bool, error) {
		asked = append(asked, user+" "+object)
		if object == "agent/broken" {
			return true, errors.New("no store")
		}
		return object == "agent/hers", nil
	}
	rest.Handle(api, rest.Op{Method: "POST", Path: "/api/v1/agents/{name}/keys", Summary: "x", Need: rest.Own, Of: "agent/{name}"},
		func(context.Context, rest.Caller, *struct {
			Name string `path:"name"`
		}) (*rest.None, error) {
			return nil, nil
		})
	s := httptest.NewServer(mux)
	defer s.Close()
	for _, c := range []struct {
		role, name string
		status     int
	}{
		{rest.Owner, "hers", 204}, {rest.Owner, "his", 403}, {rest.Owner, "hers%2F..%2Fhis", 403}, {rest.Owner, "broken", 500},
		{rest.Operator, "his", 204}, {rest.Viewer, "hers", 403}, {rest.Auditor, "hers", 403},
	} {
		role, asked = c.role, nil
		if status, body := do(t, s, "POST", "/api/v1/agents/"+c.name+"/keys", "x", ""); status != c.status {
			t.Errorf("%s, %s: %d %s", c.role, c.name, status, body)
		}
		if c.role != rest.Owner && len(asked) > 0 {
			t.Errorf("%s, %s: asked %v", c.role, c.name, asked)
		}
	}
	api.Owns = nil
	role = rest.Owner
	if status, _ := do(t, s, "POST", "/api/v1/agents/hers/keys", "x", ""); status != 403 {
		t.Error("nobody to ask lets in", status)
	}
}

func TestWhatChangesMustSayWhatItNeeds(t *testing.T) {
	for _, op := range []rest.Op{{Method: "POST", Path: "/api/v1/a"}, {Method: "POST", Path: "/api/v1/b", Need: rest.Own}, {Method: "POST", Path: "/api/v1/c", Need: rest.Write, Of: "agent/{name}"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was declared", op)
				}
			}()
			api := rest.New(http.NewServeMux(), "test", nil, slog.New(slog.DiscardHandler))
			rest.Handle(api, op, func(context.Context, rest.Caller, *struct{}) (*rest.None, error) { return nil, nil })
		}()
	}
}
