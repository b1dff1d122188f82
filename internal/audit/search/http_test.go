package search_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json/v2"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func serve(t *testing.T, f *fixture) func(method, path string, into any) (int, string) {
	t.Helper()
	mux := http.NewServeMux()
	api := rest.New(mux, "test", func(_ context.Context, token string) (rest.Caller, error) {
		return rest.Caller{ID: "usr_1", Name: token, Role: token}, nil
	}, slog.New(slog.DiscardHandler))
	f.s.Routes(api)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return func(method, path string, into any) (int, string) {
		t.Helper()
		token, path, _ := strings.Cut(path, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(f.body))
		if err != nil {
			t.Fatal(err)
		}
		if f.body != "" {
			req.Header.Set("Content-Type", "application/json")
		} else {
			req.Header.Set("X-Countersign-Reason", "because")
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if lines, ok := into.(*chan string); ok {
			*lines = make(chan string, 100)
			go func() {
				defer resp.Body.Close()
				for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
					*lines <- sc.Text()
				}
			}()
			return resp.StatusCode, ""
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if into != nil {
			if err := json.Unmarshal(body, into); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
		}
		return resp.StatusCode, string(body)
	}
}

func TestAPI(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		f.fill(t)
		do := serve(t, f)

		var list search.Listing
		if code, body := do("GET", "auditor /api/v1/log/events?limit=2&q="+url.QueryEscape("type:call.*"), &list); code != 200 || len(list.Events) != 2 || list.Next == "" {
			t.Fatalf("%d %s", code, body)
		}
		var rest search.Listing
		if code, body := do("GET", "auditor /api/v1/log/events?limit=2&q="+url.QueryEscape("type:call.*")+"&cursor="+list.Next, &rest); code != 200 || len(rest.Events) != 1 || rest.Events[0].Agent != "invoice-checker" {
			t.Errorf("%d %s", code, body)
		}
		var entry search.Entry
		if code, body := do("GET", "auditor /api/v1/log/events/"+list.Events[0].ID, &entry); code != 200 || entry.SN == 0 || len(entry.Payloads) != 1 || entry.Payloads[0].Base64 != base64.StdEncoding.EncodeToString([]byte{0xff, 0, 'b', 'i', 'n'}) {
			t.Errorf("%d %s", code, body)
		}
		raw, err := base64.StdEncoding.DecodeString(entry.Record)
		if ev, derr := audit.DecodeRecord(raw); err != nil || derr != nil || ev.ID != entry.Event.ID || string(ev.Detail) != string(entry.Event.Detail) {
			t.Errorf("record %s: %v %v", raw, err, derr)
		}
		var run search.RunListing
		if code, body := do("GET", "auditor /api/v1/log/runs/run_b", &run); code != 200 || len(run.Events) != 1 || !strings.Contains(run.Events[0].Payloads[0].Text, "Müller") {
			t.Errorf("%d %s", code, body)
		}
		var v search.Verification
		if code, body := do("POST", "auditor /api/v1/log/verify", &v); code != 200 || !v.OK || v.Events < 4 || v.Payloads != 2 {
			t.Errorf("%d %s", code, body)
		}
		for path, want := range map[string]int{
			"auditor /api/v1/log/events?q=agnet:x": 400, "auditor /api/v1/log/events?cursor=x": 400, "auditor /api/v1/log/events?limit=5000": 422,
			"auditor /api/v1/log/events/evt_x": 404, "auditor /api/v1/log/runs/none": 404, "auditor /api/v1/log/tail?q=%22": 400,
		} {
			if code, body := do("GET", path, nil); code != want {
				t.Errorf("%s: %d %s", path, code, body)
			}
		}
		if code, _ := do("POST", "viewer /api/v1/log/rebuild", nil); code != 403 {
			t.Errorf("a auditor may rebuild: %d", code)
		}
		if code, body := do("POST", "admin /api/v1/log/rebuild", nil); code != 204 {
			t.Errorf("%d %s", code, body)
		}
		if code, body := do("GET", "admin /api/openapi.json", nil); code != 200 || !strings.Contains(body, "/api/v1/log/tail") {
			t.Errorf("%d", code)
		}
	})
}

// Who sees what stands beside a call is in the log, and nobody who does not.
func TestContentsReadIsRecorded(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		f.fill(t)
		do := serve(t, f)
		ids := map[string]string{}
		for id, name := range f.ids {
			ids[name] = id
		}
		const event, run = " /api/v1/log/events/", " /api/v1/log/runs/"
		var want []string
		for _, c := range []struct {
			who, path, object string // object: what the record is about, empty if there is none
		}{
			{"auditor", event + ids["allow"], "event/" + ids["allow"]},
			{"auditor", event + ids["allow"] + "?bare=true", ""},
			{"auditor", event + ids["deny"], ""}, // has no contents
			{"viewer", event + ids["allow"], ""}, // does not see them
			{"auditor", run + "run_b", "run/run_b"},
			{"auditor", run + "run_b?bare=true", ""},
			{"viewer", run + "run_b", ""},
		} {
			if c.object != "" {
				want = append(want, c.who+" "+c.object+" because")
			}
			code, body := do("GET", c.who+c.path, nil)
			if shown := strings.Contains(body, "Müller"); code != 200 || shown != (c.object != "") {
				t.Errorf("%s%s: %d %s", c.who, c.path, code, body)
			}
			recs, err := f.log.List(t.Context(), audit.Query{Types: []audit.Type{"contents.read"}, Oldest: true})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range recs {
				got = append(got, r.Event.Actor.Name+" "+r.Event.Object+" "+r.Event.Reason)
			}
			if !slices.Equal(got, want) {
				t.Errorf("after %s%s: %q, want %q", c.who, c.path, got, want)
			}
		}
	})
}

func TestTail(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		f.fill(t)
		do := serve(t, f)
		var all, some, words chan string
		do("GET", "auditor /api/v1/log/tail?last=2", &all)
		do("GET", "auditor /api/v1/log/tail?q=agent:wanted", &some)
		do("GET", "auditor /api/v1/log/tail?q=needle", &words)
		f.add(t, "other", 5, audit.Event{Type: audit.CallDenied, Agent: "other"})
		f.add(t, "wanted", 6, audit.Event{Type: audit.CallDenied, Agent: "wanted"}, audit.Payload{Name: "arguments", Body: []byte(`{"in":"a needle"}`)})
		for _, c := range []struct {
			lines chan string
			want  string
		}{{all, "user labels other wanted"}, {some, "wanted"}, {words, "wanted"}} {
			if got := f.collect(t, c.lines, len(strings.Fields(c.want))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		}
	})
}

// collect reads n events and returns their names.
func (f *fixture) collect(t *testing.T, lines chan string, n int) string {
	t.Helper()
	var names []string
	limit := time.After(20 * time.Second)
	for len(names) < n {
		select {
		case line := <-lines:
			if event, ok := strings.CutPrefix(line, "id: "); ok {
				names = append(names, f.ids[event])
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				if _, err := audit.DecodeRecord([]byte(data)); err != nil {
					t.Error(err)
				}
			}
		case <-limit:
			t.Fatalf("only %v came", names)
		}
	}
	return strings.Join(names, " ")
}

func TestWhatWasJustRecordedIsFound(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		do := serve(t, f)
		for i := range 20 {
			name := fmt.Sprintf("just%d", i)
			f.add(t, name, i, audit.Event{Type: "user.created", Object: "user/" + name})
			var list search.Listing
			if code, body := do("GET", "auditor /api/v1/log/events?q="+name, &list); code != 200 || len(list.Events) != 1 {
				t.Fatalf("%s: %d %s", name, code, body)
			}
		}
	})
}
