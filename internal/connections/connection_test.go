package connections_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
)

func llm(edit func(*connections.Connection)) connections.Connection {
	c := connections.Connection{Name: "openai", Kind: "llm", Dialect: "openai", URL: "https://api.openai.example/", Owner: "pat", Secret: "openai-key"}
	if edit != nil {
		edit(&c)
	}
	return c
}

func stdio(edit func(*connections.Connection)) connections.Connection {
	c := connections.Connection{Name: "ledger", Kind: "mcp", Command: []string{"ledger-server", "--stdio"}, Env: map[string]string{"DB": "secret://ledger-db"}, Owner: "fiona"}
	if edit != nil {
		edit(&c)
	}
	return c
}

func TestNormalizeFillsIn(t *testing.T) {
	for _, c := range []struct {
		name      string
		in        connections.Connection
		auth, url string
	}{
		{"openai", llm(nil), "bearer", "https://api.openai.example"},
		{"anthropic", llm(func(c *connections.Connection) { c.Dialect = "anthropic" }), "x-api-key", "https://api.openai.example"},
		{"stdio", stdio(nil), "none", ""},
		{"mcp without a secret", connections.Connection{Name: "a", Kind: "mcp", URL: "HTTPS://MCP.Example:8443/mcp", Owner: "pat"}, "none", "https://mcp.example:8443/mcp"},
		{"mcp with a secret", connections.Connection{Name: "a", Kind: "mcp", URL: "https://mcp.example/mcp", Owner: "pat", Secret: "s"}, "bearer", "https://mcp.example/mcp"},
		{"loopback", llm(func(c *connections.Connection) { c.URL, c.AllowPrivate = "http://127.0.0.1:9000/", true }), "bearer", "http://127.0.0.1:9000"},
		{"private v6", llm(func(c *connections.Connection) { c.URL, c.AllowPrivate = "http://[fd12::1]:80/x", true }), "bearer", "http://[fd12::1]:80/x"},
		{"service name", llm(func(c *connections.Connection) { c.URL, c.AllowPrivate = "http://model:9000", true }), "bearer", "http://model:9000"},
		{"own header", llm(func(c *connections.Connection) { c.Auth = "header:X-Token" }), "header:X-Token", "https://api.openai.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.in.Normalize()
			if err != nil || got.Auth != c.auth || got.URL != c.url {
				t.Errorf("auth %q, url %q, %v", got.Auth, got.URL, err)
			}
			again, err := got.Normalize()
			if err != nil || again.URL != got.URL {
				t.Errorf("not stable: %q, %v", again.URL, err)
			}
		})
	}
}

func TestNormalizeRefuses(t *testing.T) {
	url := func(u string) connections.Connection { return llm(func(c *connections.Connection) { c.URL = u }) }
	private := func(u string) connections.Connection {
		return llm(func(c *connections.Connection) { c.URL, c.AllowPrivate = u, true })
	}
	for _, c := range []struct {
		name  string
		in    connections.Connection
		field string
	}{
		{"upper case name", llm(func(c *connections.Connection) { c.Name = "Open" }), "name"},
		{"underscore", llm(func(c *connections.Connection) { c.Name = "a__b" }), "name"},
		{"slash", llm(func(c *connections.Connection) { c.Name = "a/b" }), "name"},
		{"long name", llm(func(c *connections.Connection) { c.Name = strings.Repeat("a", 64) }), "name"},
		{"kind", llm(func(c *connections.Connection) { c.Kind = "smtp" }), "kind"},
		{"no engine", llm(func(c *connections.Connection) { c.Kind = "retrieval" }), "dialect"},
		{"dialect", llm(func(c *connections.Connection) { c.Dialect = "" }), "dialect"},
		{"mcp dialect", stdio(func(c *connections.Connection) { c.Dialect = "openai" }), "dialect"},
		{"owner", llm(func(c *connections.Connection) { c.Owner = "" }), "owner"},
		{"plain http", url("http://api.example/v1"), "url"},
		{"plain http to a public name that is said to be private", private("http://api.example/v1"), "url"},
		{"plain http to a public address", private("http://8.8.8.8/"), "url"},
		{"private without saying so", url("https://10.1.2.3/"), "url"},
		{"loopback without saying so", url("https://localhost:1/"), "url"},
		{"mapped loopback", url("https://[::ffff:127.0.0.1]/"), "url"},
		{"userinfo", url("https://user:pass@api.example/"), "url"},
		{"query", url("https://api.example/?key=1"), "url"},
		{"empty query", url("https://api.example/?"), "url"},
		{"fragment", url("https://api.example/#x"), "url"},
		{"no host", url("https:///v1"), "url"},
		{"scheme", url("file:///etc/passwd"), "url"},
		{"traversal", url("https://api.example/a/../b"), "url"},
		{"escaped slash", url("https://api.example/a%2fb"), "url"},
		{"metadata", private("http://169.254.169.254/latest"), "url"},
		{"metadata v6", private("http://[fd00:ec2::254]/"), "url"},
		{"short address", private("http://127.1/"), "url"},
		{"hex address", private("http://0x7f000001/"), "url"},
		{"decimal address", private("http://2130706433/"), "url"},
		{"octal address", private("http://0177.0.0.1/"), "url"},
		{"zone", private("http://[fe80::1%25eth0]/"), "url"},
		{"unspecified", private("http://0.0.0.0:80/"), "url"},
		{"port", url("https://api.example:0/"), "url"},
		{"both", llm(func(c *connections.Connection) { c.Command = []string{"x"} }), "command"},
		{"neither", stdio(func(c *connections.Connection) { c.Command, c.Env = nil, nil }), "url"},
		{"relative command", stdio(func(c *connections.Connection) { c.Command[0] = "./x" }), "command[0]"},
		{"secret in argv", stdio(func(c *connections.Connection) { c.Command[1] = "--password=secret://db" }), "command[1]"},
		{"NUL in argv", stdio(func(c *connections.Connection) { c.Command[1] = "a\x00b" }), "command[1]"},
		{"env name", stdio(func(c *connections.Connection) { c.Env = map[string]string{"A-B": "x"} }), "env.A-B"},
		{"env secret", stdio(func(c *connections.Connection) { c.Env = map[string]string{"A": "secret://Not A Name"} }), "env.A"},
		{"env without command", llm(func(c *connections.Connection) { c.Env = map[string]string{"A": "x"} }), "env"},
		{"command with a secret", stdio(func(c *connections.Connection) { c.Secret = "s" }), "auth"},
		{"auth", llm(func(c *connections.Connection) { c.Auth = "digest" }), "auth"},
		{"header smuggling", llm(func(c *connections.Connection) { c.Auth = "header:X-A: b\r\nX" }), "auth"},
		{"reserved header", llm(func(c *connections.Connection) { c.Auth = "header:Content-Length" }), "auth"},
		{"auth without secret", llm(func(c *connections.Connection) { c.Secret = "" }), "secret"},
		{"secret without auth", llm(func(c *connections.Connection) { c.Auth = "none" }), "secret"},
		{"timeout", llm(func(c *connections.Connection) { c.Timeout = -1 }), "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.in.Normalize()
			var fe *connections.FieldError
			if !errors.As(err, &fe) || fe.Field != c.field {
				t.Fatalf("got %v, want a complaint about %s", err, c.field)
			}
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.Unsupported {
				t.Errorf("kind %v", k)
			}
		})
	}
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"https://api.example/v1", "http://127.0.0.1:80", "http://[::1]/", "https://a@b/", "http://0x7f.1/", "https://xn--a/%2e%2e/"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, u string, private bool) {
		c, err := llm(func(c *connections.Connection) { c.URL, c.AllowPrivate = u, private }).Normalize()
		if err != nil {
			return
		}
		if strings.ContainsAny(c.URL, "@?# \\") || (!private && !strings.HasPrefix(c.URL, "https://")) {
			t.Errorf("%q became %q", u, c.URL)
		}
		again, err := c.Normalize()
		if err != nil || again.URL != c.URL {
			t.Errorf("%q became %q and then %q (%v)", u, c.URL, again.URL, err)
		}
	})
}
