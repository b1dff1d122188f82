package llm_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
	"github.com/countersign/countersign/test/upstream"
)

var update = flag.Bool("update", false, "write what happens into testdata")

// TestExchanges plays each file of testdata/exchanges: what the agent sends
// (request), under which policy, and what the upstream says (says) lead to what
// the upstream got, what the agent got and what the log holds.
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob("testdata/exchanges/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no exchanges", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			given := map[string]string{}
			for _, f := range ar.Files {
				given[f.Name] = string(f.Data)
			}
			got := play(t, given)
			for _, name := range []string{"forwarded", "answer", "events"} {
				if !*update {
					if diff := cmp.Diff(given[name], got[name]); diff != "" {
						t.Errorf("%s:\n%s", name, diff)
					}
					continue
				}
				ar.Files = slices.DeleteFunc(ar.Files, func(f txtar.File) bool { return f.Name == name })
				ar.Files = append(ar.Files, txtar.File{Name: name, Data: []byte(got[name])})
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func play(t *testing.T, given map[string]string) map[string]string {
	t.Helper()
	up := upstream.Start(t, upstream.Raw(strings.ReplaceAll(strings.TrimSuffix(given["says"], "\n"), "\n", "\r\n")))
	l := line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{})
	l.Connect("openai", connections.OpenAI, up.URL)
	l.Connect("anthropic", connections.Anthropic, up.URL)
	l.Policies(given["policy.cedar"])
	head, body, _ := strings.Cut(given["request"], "\n\n")
	body = strings.TrimSuffix(body, "\n")
	parsed, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	pairs := []string{"Content-Type", "application/json"}
	for name, values := range parsed.Header {
		pairs = append(pairs, name, values[0])
	}
	a := do(t, l, parsed.Method, parsed.URL.RequestURI(), body, pairs...)
	got := map[string]string{"forwarded": "", "events": "", "answer": fmt.Sprintf("%d %s\n\n%s\n", a.status, a.header.Get("Content-Type"), mask(strings.TrimRight(a.body, "\n")))}
	for _, r := range up.Requests() {
		got["forwarded"] += forwarded(r)
	}
	sent := len(up.Requests())
	for _, want := range []struct {
		t audit.Type
		n int
	}{{audit.CallIntent, sent}, {audit.CallOutcome, sent}, {audit.CallDenied, -1}, {audit.CallHeld, -1}, {audit.CallRefused, -1}} {
		if want.n >= 0 {
			l.Events(want.n, want.t)
		}
	}
	recorded, err := l.Log.List(t.Context(), audit.Query{Oldest: true, Payloads: true, Types: []audit.Type{
		audit.CallIntent, audit.CallOutcome, audit.CallDenied, audit.CallHeld, audit.CallRefused,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recorded {
		got["events"] += event(r)
	}
	return got
}

func forwarded(r upstream.Request) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s", r.Method, r.Path)
	if r.Query != "" {
		b.WriteString("?" + r.Query)
	}
	b.WriteByte('\n')
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s: %s\n", name, mask(strings.ReplaceAll(strings.Join(r.Header[name], ", "), line.Secret, "[the provider's key]")))
	}
	fmt.Fprintf(&b, "\n%s\n", r.Body)
	return b.String()
}

// mask hides identifiers, which differ from run to run.
func mask(s string) string {
	for _, prefix := range []string{"evt_", "call_", "run_"} {
		for {
			i := strings.Index(s, prefix)
			if i < 0 || len(s) < i+len(prefix)+26 {
				break
			}
			s = s[:i] + "[" + strings.TrimSuffix(prefix, "_") + "]" + s[i+len(prefix)+26:]
		}
	}
	return s
}

func event(r audit.Record) string {
	var b strings.Builder
	ev := r.Event
	fmt.Fprintf(&b, "%s %s %s/%s %s\n", ev.Type, ev.Agent, ev.Connection, ev.Tool, ev.Effect)
	if d := ev.Decision; d != nil {
		fmt.Fprintf(&b, "  decision %s by %s: %s\n", d.Effect, strings.Join(d.Policies, ", "), d.Reason)
	}
	if o := ev.Outcome; o != nil {
		fmt.Fprintf(&b, "  outcome %s %d %s\n", o.Status, o.Code, o.Error)
		if u := o.Usage; u != nil {
			fmt.Fprintf(&b, "  usage %s %d in (%d cached) %d out\n", u.Model, u.Input, u.Cached, u.Output)
		}
	}
	if len(ev.Detail) > 0 {
		fmt.Fprintf(&b, "  detail %s\n", ev.Detail)
	}
	names := make([]string, 0, len(r.Payloads))
	for name := range r.Payloads {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		_, _ = io.WriteString(&b, "  "+name+" "+strings.ReplaceAll(string(r.Payloads[name]), "\n", "\n    ")+"\n")
	}
	return b.String()
}
