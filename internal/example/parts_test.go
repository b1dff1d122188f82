package example_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/example"
	"github.com/countersign/countersign/internal/example/ledger"
)

// TestMain lets the test binary be a part of the business, as the product's
// binary is with `countersign example PART`.
func TestMain(m *testing.M) {
	if part, ok := os.LookupEnv("EXAMPLE_TEST_PART"); ok {
		words := strings.Split(part, " ")
		world := example.IO{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
		if err := example.Run(context.Background(), words[0], words[1:], world); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func command(t *testing.T, part string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append([]string{"EXAMPLE_TEST_PART=" + part, "PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

func TestLedgerOverStdio(t *testing.T) {
	dir := t.TempDir()
	for start := range 2 {
		session, err := mcp.NewClient(&mcp.Implementation{Name: "test"}, nil).Connect(t.Context(),
			&mcp.CommandTransport{Command: command(t, "ledger --data "+dir, ledger.SecretEnv+"=ledger-secret")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		result, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "list_invoices", Arguments: map[string]any{}})
		if err != nil || result.IsError {
			t.Fatalf("start %d: %+v %v", start, result, err)
		}
		list := result.StructuredContent.(map[string]any)["invoices"].([]any)
		if len(list) != 20 {
			t.Errorf("start %d: %d invoices; the second start must not seed again", start, len(list))
		}
		if err := session.Close(); err != nil {
			t.Errorf("the ledger did not end cleanly: %v", err)
		}
	}
}

func TestLedgerWithoutItsSecret(t *testing.T) {
	out, err := command(t, "ledger --data "+t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), ledger.SecretEnv) {
		t.Errorf("got %v: %s", err, out)
	}
}

func TestServersSayWhereTheyAre(t *testing.T) {
	for _, tc := range []struct{ part, env, path string }{
		{"model", example.ModelKeyEnv, "/v1/models"},
		{"courier --data " + t.TempDir(), example.CourierTokenEnv, ""},
		{"helpdesk --data " + t.TempDir(), example.DeskTokenEnv, ""},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		r, w := io.Pipe()
		ended := make(chan error, 1)
		words := strings.Split(tc.part, " ")
		go func() {
			ended <- example.Run(ctx, words[0], words[1:], example.IO{
				Getenv: func(name string) string { return map[string]string{tc.env: "a-credential"}[name] }, Stdout: w, Stderr: io.Discard})
		}()
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		address := strings.TrimSpace(strings.TrimPrefix(line, "ready "))
		resp, err := http.Get(address + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without a credential: %s", tc.part, resp.Status)
		}
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s ended with %v", tc.part, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s did not end", tc.part)
		}
	}
}

func TestWrongUse(t *testing.T) {
	world := example.IO{Getenv: func(string) string { return "" }, Stderr: io.Discard}
	for _, words := range [][]string{{"bakery"}, {"helpdesk"}, {"ledger"}, {"model", "extra"}, {"support", "a", "b"}, {"invoices", "--nope"}} {
		if err := example.Run(t.Context(), words[0], words[1:], world); !errors.Is(err, example.ErrUsage) {
			t.Errorf("%v: %v", words, err)
		}
	}
	if err := example.Run(t.Context(), "model", nil, world); err == nil || !strings.Contains(err.Error(), example.ModelKeyEnv) {
		t.Errorf("model without a key: %v", err)
	}
}
