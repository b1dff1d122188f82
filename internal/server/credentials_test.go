package server_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/secrets/leaktest"
	"github.com/countersign/countersign/internal/storage/storagetest"
	pgtest "github.com/countersign/countersign/test/postgres"
)

// databasePart is an MCP server whose one tool says as whom it is logged in at
// the database that its environment names.
func databasePart() int {
	s := mcp.NewServer(&mcp.Implementation{Name: "database", Version: "1"}, nil)
	type in struct{}
	mcp.AddTool(s, &mcp.Tool{Name: "whoami", Description: "says who"}, func(ctx context.Context, _ *mcp.CallToolRequest, _ in) (*mcp.CallToolResult, any, error) {
		conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
		if err != nil {
			return nil, nil, err
		}
		defer conn.Close(ctx)
		var who string
		if err := conn.QueryRow(ctx, "SELECT current_user").Scan(&who); err != nil {
			return nil, nil, err
		}
		// Spaced, for what a program was given is hidden in what it answers.
		text := "I am " + spaced(who) + ", and " + spaced(os.Getenv("DATABASE_USER"))
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil, nil
	})
	if s.Run(context.Background(), &mcp.StdioTransport{}) != nil {
		return 1
	}
	return 0
}

func spaced(s string) string { return strings.Join(strings.Split(s, ""), " ") }

var leased = regexp.MustCompile(`I am (c s _ w o r k e r _ [a-z0-9 ]+), and (c s _ w o r k e r _ [a-z0-9 ]+)`)

// until waits for something that happens in the background.
func eventually(t *testing.T, what string, fn func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !fn(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

// An agent's tools get a database role of their own for a time; the server's
// stop and anybody's word end it.
func TestAnAgentsToolsGetALeasedRole(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		pg := pgtest.Shared(t)
		pg.Exec(t, `DROP ROLE IF EXISTS lease_readers`, `CREATE ROLE lease_readers NOLOGIN`)
		data := t.TempDir()
		p := start(t, data, dsn, "")
		p.company(t)
		p.api(t, "PUT", "/secrets/db", map[string]any{"value": pg.DSN, "owner": "olga", "connection": "database", "kind": "postgres", "settings": map[string]string{"roles": "lease_readers"}}, nil)
		p.api(t, "PUT", "/connections/database", map[string]any{"kind": "mcp", "owner": "olga", "command": []string{os.Args[0]},
			"env": map[string]string{partEnv: "database", "DATABASE_URL": "secret://db", "DATABASE_USER": "secret://db#username"}}, nil)
		p.grant(t, "database")
		var run struct {
			Token string `json:"token"`
		}
		p.api(t, "POST", "/agents/worker/runs", map[string]any{"expires_in": "10m"}, &run)

		who := func() string {
			answer := p.tool(t, "/mcp/database", run.Token, "whoami", map[string]any{})
			m := leased.FindStringSubmatch(answer)
			if m == nil || m[1] != m[2] {
				t.Fatalf("not a leased role: %s", answer)
			}
			return strings.ReplaceAll(m[1], " ", "")
		}
		first := who()
		if again := who(); again != first {
			t.Errorf("each call gets a role of its own: %s, %s", first, again)
		}
		p.api(t, "POST", "/secrets/db/revoke", map[string]any{}, nil)
		roles := func() []string {
			var leases []struct {
				Name string `json:"name"`
			}
			p.api(t, "GET", "/leases", nil, &leases)
			var names []string
			for _, l := range leases {
				names = append(names, l.Name)
			}
			return names
		}
		eventually(t, "the first role is gone", func() bool { return !strings.Contains(strings.Join(roles(), " "), first) })
		second := who()
		if second == first {
			t.Error("a role that was ended is used")
		}
		p.stop(t)
		leaktest.Bytes(t, leaktest.Secrets{"the admin's password": pgtest.Password}, "the database", dump(t, dsn))
		p = start(t, data, dsn, p.token)
		eventually(t, "what the server had is gone after its stop", func() bool { return len(roles()) == 0 })
		conn, err := pgx.Connect(t.Context(), pg.DSN)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'cs\\_worker%'").Scan(&n); err != nil || n != 0 {
			t.Errorf("%d roles are left, %v", n, err)
		}
		p.stop(t)
	})
}

// A database role that is rotated goes on working in calls under way and new ones.
func TestRotationOfARunningServer(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		pg := pgtest.Shared(t)
		pg.Exec(t, `DROP ROLE IF EXISTS turn_a`, `DROP ROLE IF EXISTS turn_b`, `CREATE ROLE turn_a LOGIN PASSWORD 'the-first-of-all-1'`, `CREATE ROLE turn_b NOLOGIN`)
		p := start(t, t.TempDir(), dsn, "")
		p.company(t)
		p.api(t, "PUT", "/secrets/db-admin", map[string]any{"value": pg.DSN, "owner": "olga", "connection": "database"}, nil)
		p.api(t, "PUT", "/secrets/db", map[string]any{"value": pg.User("turn_a", "the-first-of-all-1"), "owner": "olga", "connection": "database",
			"rotation": map[string]string{"by": "postgres", "users": "turn_a,turn_b", "admin": "db-admin", "overlap": "0s", "every": "30d"}}, nil)
		type rotation struct {
			ID    string `json:"id"`
			Step  string `json:"step"`
			Error string `json:"error"`
		}
		for range 2 {
			var r rotation
			p.api(t, "POST", "/secrets/db/rotate", map[string]any{}, &r)
			eventually(t, "the rotation is done", func() bool {
				var all []rotation
				p.api(t, "GET", "/secrets/db/rotations", nil, &all)
				if all[0].Step == "failed" || all[0].Error != "" {
					t.Fatalf("%+v\n%s", all, p.stderr)
				}
				return all[0].ID == r.ID && all[0].Step == "done"
			})
		}
		var row struct {
			Version int64     `json:"version"`
			Last    time.Time `json:"last_rotation"`
			Next    time.Time `json:"next_rotation"`
		}
		p.api(t, "GET", "/secrets/db", nil, &row)
		if row.Version != 3 || row.Last.IsZero() || row.Next.Before(time.Now().Add(24*time.Hour)) {
			t.Errorf("%+v", row)
		}
		eventually(t, "the first password is refused", func() bool { return !pg.Logs(t, pg.User("turn_a", "the-first-of-all-1")) })
		p.stop(t)
		leaktest.Bytes(t, leaktest.Secrets{"the first password": "the-first-of-all-1"}, "the database", dump(t, dsn))
	})
}
