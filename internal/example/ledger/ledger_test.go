package ledger_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/example/ledger"
)

func open(t *testing.T, dir string) *ledger.Server {
	t.Helper()
	s, err := ledger.New(t.Context(), ledger.Options{Dir: dir, Secret: "ledger-secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// connect speaks to s over pipes, as over standard input and output.
func connect(t *testing.T, s *ledger.Server) *mcp.ClientSession {
	t.Helper()
	in, toServer := io.Pipe()
	fromServer, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context(), in, out) }()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test"}, nil).Connect(t.Context(), &mcp.IOTransport{Reader: fromServer, Writer: toServer}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = session.Close()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the ledger ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the ledger did not end with its input")
		}
	})
	return session
}

func call(t *testing.T, s *mcp.ClientSession, tool string, args map[string]any) (map[string]any, string) {
	t.Helper()
	r, err := s.CallTool(context.Background(), &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return nil, err.Error()
	}
	if r.IsError {
		return nil, r.Content[0].(*mcp.TextContent).Text
	}
	return r.StructuredContent.(map[string]any), ""
}

func payment(number string, cents any) map[string]any {
	return map[string]any{"number": number, "amount_cents": cents, "currency": "EUR", "payee": "Nordwind GmbH", "iban": "DE89370400440532013000"}
}

func with(args map[string]any, name string, value any) map[string]any {
	args[name] = value
	return args
}

func TestTheWayOfAnInvoice(t *testing.T) {
	books := open(t, t.TempDir())
	s := connect(t, books)
	steps := []struct {
		tool string
		args map[string]any
		want string // part of the error; empty means it works
	}{
		{"get_invoice", map[string]any{"number": "4711"}, ""},
		{"get_invoice", map[string]any{"number": "1"}, "no invoice"},
		{"pay_invoice", payment("4711", 1239999), "not 1239999 cents"},
		{"pay_invoice", payment("4711", 1240000.5), "amount_cents"},
		{"pay_invoice", payment("4711", "1240000"), "amount_cents"},
		{"pay_invoice", payment("4711", -1), "must be positive"},
		{"pay_invoice", with(payment("4711", 1240000), "currency", "USD"), "EUR"},
		{"pay_invoice", with(payment("4711", 1240000), "currency", "euros"), "not a currency"},
		{"pay_invoice", with(payment("4711", 1240000), "iban", "DE89 3704"), "not an IBAN"},
		{"pay_invoice", with(payment("4711", 1240000), "payee", " "), "no name"},
		{"pay_invoice", with(payment("4711", 1240000), "extra", 1), "additional"},
		{"propose_hold", map[string]any{"number": "4711", "reason": " "}, "say why"},
		{"flag_anomaly", map[string]any{"number": "4716", "reason": "duplicate"}, ""},
		{"propose_hold", map[string]any{"number": "4716", "reason": "duplicate"}, ""},
		{"propose_hold", map[string]any{"number": "4716", "reason": "again"}, "is held"},
		{"pay_invoice", payment("4716", 189900), "on hold: duplicate"},
		{"pay_invoice", payment("4711", 1240000), ""},
		{"pay_invoice", payment("4711", 1240000), "paid already"},
		{"reverse_payment", map[string]any{"payment_id": 3}, ""},
		{"reverse_payment", map[string]any{"payment_id": 3}, "reversed already"},
		{"reverse_payment", map[string]any{"payment_id": 99}, "no payment"},
		{"pay_invoice", payment("4711", 1240000), ""},
	}
	for _, st := range steps {
		_, problem := call(t, s, st.tool, st.args)
		if (st.want == "") != (problem == "") || !strings.Contains(problem, st.want) {
			t.Errorf("%s %v: %q, want %q", st.tool, st.args, problem, st.want)
		}
	}
	list, problem := call(t, s, "list_payments", map[string]any{})
	if problem != "" || len(list["payments"].([]any)) != 4 {
		t.Errorf("%s %v", problem, list)
	}
}

func TestAmountsAreIntegersInTheSchema(t *testing.T) {
	s := connect(t, open(t, t.TempDir()))
	for tool, err := range s.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if tool.Name != "pay_invoice" {
			continue
		}
		amount := tool.InputSchema.(map[string]any)["properties"].(map[string]any)["amount_cents"].(map[string]any)
		if amount["type"] != "integer" {
			t.Errorf("amount_cents is %v", amount["type"])
		}
	}
}

// One invoice is paid once, however many processes try.
func TestConcurrentPayments(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	paid := 0
	var wg sync.WaitGroup
	for range 3 {
		s := connect(t, open(t, dir))
		wg.Go(func() {
			for range 5 {
				if _, problem := call(t, s, "pay_invoice", payment("4711", 1240000)); problem == "" {
					mu.Lock()
					paid++
					mu.Unlock()
				} else if !strings.Contains(problem, "paid already") {
					t.Error(problem)
				}
			}
		})
	}
	wg.Wait()
	if paid != 1 {
		t.Errorf("paid %d times", paid)
	}
}

func TestTheSecretIsDemanded(t *testing.T) {
	for _, secret := range []string{"", "short"} {
		_, err := ledger.New(t.Context(), ledger.Options{Dir: t.TempDir(), Secret: secret})
		if !errors.Is(err, ledger.ErrSecret) || (secret != "" && strings.Contains(err.Error(), secret)) {
			t.Errorf("%q: %v", secret, err)
		}
	}
}

func TestArrivals(t *testing.T) {
	books := open(t, t.TempDir())
	s := connect(t, books)
	list, _ := call(t, s, "list_invoices", map[string]any{"status": "open"})
	for _, i := range list["invoices"].([]any) {
		if _, problem := call(t, s, "propose_hold", map[string]any{"number": i.(map[string]any)["number"], "reason": "test"}); problem != "" {
			t.Fatal(problem)
		}
	}
	for range 12 {
		if err := books.Arrive(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
	}
	list, _ = call(t, s, "list_invoices", map[string]any{"status": "open"})
	open := list["invoices"].([]any)
	if len(open) != 4 {
		t.Fatalf("%d invoices are open, the limit is 4", len(open))
	}
	if i := open[0].(map[string]any); i["number"] != "4720" || i["iban"] != i["iban_on_file"] {
		t.Errorf("%v", i)
	}
}
