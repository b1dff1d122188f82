package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
)

// serve answers every request with fn.
func serve(t *testing.T, fn http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(fn)
	t.Cleanup(s.Close)
	return client.New(s.URL+"/", "csu_token")
}

func TestWhatIsSent(t *testing.T) {
	var got *http.Request
	var body string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		fmt.Fprint(w, `{"name": "a b"}`)
	})
	x, err := c.WithReason("two\nlines").PutAgent(t.Context(), "a b/c", client.AgentSpec{Owner: "sam", Stage: "production"})
	if err != nil || x.Name != "a b" {
		t.Fatalf("%+v %v", x, err)
	}
	if got.URL.EscapedPath() != "/api/v1/agents/a%20b%2Fc" || got.Method != http.MethodPut {
		t.Errorf("%s %s", got.Method, got.URL.EscapedPath())
	}
	if h := got.Header; h.Get("Authorization") != "Bearer csu_token" || h.Get("X-Countersign-Reason") != "two lines" || h.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", h)
	}
	if body != `{"owner":"sam","stage":"production"}` {
		t.Errorf("body %s", body)
	}
	if err := c.DeleteAgent(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if got.Header.Get("X-Countersign-Reason") != "" {
		t.Error("WithReason changed the client it was called on")
	}
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"problem", `{"status": 404, "code": "not_found", "detail": "there is no agent"}`, 404, "there is no agent"},
		{"internal", `{"status": 500, "code": "internal", "detail": "something broke", "request_id": "req_1"}`, 500, "something broke (req_1)"},
		{"not ours", `<html>Bad Gateway</html>`, 502, "the server answered 502 Bad Gateway"},
		{"redirect", ``, 307, "the server answered 307"},
		{"success of another form", `[1, 2]`, 200, "not what this version expects"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			})
			_, err := c.Agent(t.Context(), "x")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %s", err, tc.want)
			}
			var e *client.Error
			if errors.As(err, &e) != (tc.status >= 300) || e != nil && e.Status != tc.status {
				t.Errorf("%#v", err)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	_, err := client.New("http://127.0.0.1:1", "csu_token").Agents(t.Context())
	if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), "countersign up") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.New("http://127.0.0.1:1", "csu_token").Agents(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestTailGoesOn breaks the connection after each event.
func TestTailGoesOn(t *testing.T) {
	resumed := []string{}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.Header.Get("Last-Event-ID")+"/"+r.URL.Query().Get("last")+"/"+r.URL.Query().Get("q"))
		fmt.Fprintf(w, ": alive\n\nevent: call.intent\nid: evt_%d\ndata: {\"id\":\"evt_%d\",\"type\":\"call.intent\"}\n\n", len(resumed), len(resumed))
	})
	enough := errors.New("enough")
	var seen []string
	err := c.Tail(t.Context(), "agent:x", 3, func(ev client.Event) error {
		if seen = append(seen, ev.ID); len(seen) == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(seen, " ") != "evt_1 evt_2 evt_3" {
		t.Errorf("%v %v", seen, err)
	}
	if strings.Join(resumed, " ") != "/3/agent:x evt_1//agent:x evt_2//agent:x" {
		t.Errorf("resumed %v", resumed)
	}
}

func TestTailEnds(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"status": 400, "detail": "the query cannot be read"}`)
	})
	if err := c.Tail(t.Context(), "x:y", 0, nil); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("refused: %v", err)
	}
	if err := client.New("http://127.0.0.1:1", "csu_token").Tail(t.Context(), "", 0, nil); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	c = serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "data: {\"id\": \n\n") })
	if err := c.Tail(t.Context(), "", 0, func(client.Event) error { return nil }); err == nil || !strings.Contains(err.Error(), "expects") {
		t.Errorf("garbage: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c = serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	})
	if err := c.Tail(ctx, "", 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestRunIsReadWhole(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("cursor") == "" {
			fmt.Fprint(w, `{"events": [{"event": {"id": "evt_1"}, "payloads": [{"name": "prompt", "base64": "aGk="}]}], "next": "evt_1"}`)
			return
		}
		fmt.Fprint(w, `{"events": [{"event": {"id": "evt_2"}}]}`)
	})
	entries, complete, err := c.Run(t.Context(), "run_x")
	if err != nil || !complete || len(entries) != 2 || entries[0].Payload("prompt") != "hi" || entries[1].Payload("prompt") != "" {
		t.Errorf("%+v %v %v", entries, complete, err)
	}
}

func TestReadyWaits(t *testing.T) {
	tries := 0
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if tries++; tries < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	if err := c.Ready(t.Context()); err != nil || tries != 3 {
		t.Errorf("%v after %d", err, tries)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := client.New("http://127.0.0.1:1", "").Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// alone gives the test a home and a working directory without settings.
func alone(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for name, value := range map[string]string{"HOME": dir, "XDG_CONFIG_HOME": dir + "/config", "COUNTERSIGN_URL": "", "COUNTERSIGN_TOKEN": "", "COUNTERSIGN_DATA": ""} {
		t.Setenv(name, value)
	}
	return dir
}

func TestDiscover(t *testing.T) {
	dir := alone(t)
	if _, err := client.Discover(); !errors.Is(err, client.ErrNotSignedIn) {
		t.Errorf("nothing there: %v", err)
	}
	user, err := client.UserFile()
	if err != nil {
		t.Fatal(err)
	}
	mine, here := client.Settings{URL: "http://mine", Token: "csu_mine"}, client.Settings{URL: "http://here", Token: "csu_here"}
	for file, s := range map[string]client.Settings{user: mine, filepath.Join(dir, "countersign-data", client.SettingsFile): here} {
		if err := s.Write(file); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, info.Mode(), err)
		}
	}
	for _, tc := range []struct {
		name, url, token, data string
		want                   client.Settings
	}{
		{"the directory first", "", "", "", here},
		{"another directory", "", "", "elsewhere", mine},
		{"the token of that server", "http://mine", "", "", mine},
		{"both given", "http://x", "csu_x", "", client.Settings{URL: "http://x", Token: "csu_x"}},
		{"only a token", "", "csu_x", "", client.Settings{URL: "http://here", Token: "csu_x"}},
	} {
		t.Setenv("COUNTERSIGN_URL", tc.url)
		t.Setenv("COUNTERSIGN_TOKEN", tc.token)
		t.Setenv("COUNTERSIGN_DATA", tc.data)
		if got, err := client.Discover(); err != nil || got != tc.want {
			t.Errorf("%s: %v %v", tc.name, got, err)
		}
	}
	t.Setenv("COUNTERSIGN_DATA", "")
	t.Setenv("COUNTERSIGN_TOKEN", "")
	t.Setenv("COUNTERSIGN_URL", "http://stranger")
	if s, err := client.Discover(); !errors.Is(err, client.ErrNotSignedIn) || s.Token != "" {
		t.Errorf("a token for another server: %v %v", s, err)
	}
}

func TestSettingsThatOthersCanRead(t *testing.T) {
	dir := alone(t)
	file := filepath.Join(dir, "countersign-data", client.SettingsFile)
	if err := (client.Settings{URL: "http://here", Token: "csu_here"}).Write(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Discover(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("%v", err)
	}
}

func TestACutOffExportIsNoticed(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(w http.ResponseWriter)
		want  error
	}{
		"whole": {func(w http.ResponseWriter) {
			w.Header().Set("Trailer", "X-Countersign-Complete")
			fmt.Fprintln(w, "{}")
			w.Header().Set("X-Countersign-Complete", "true")
		}, nil},
		"no trailer": {func(w http.ResponseWriter) { fmt.Fprintln(w, "{}") }, client.ErrCutOff},
		"broken off": {func(w http.ResponseWriter) {
			fmt.Fprintln(w, "{}")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, client.ErrCutOff},
	} {
		cl := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("payloads") != "true" {
				t.Errorf("%s", r.URL)
			}
			c.serve(w)
		})
		if err := cl.ExportLog(t.Context(), 0, true, io.Discard); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
