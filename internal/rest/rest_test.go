package rest_test

import (
	"context"
	"encoding/json/v2"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/rest"
)

var errTaken = fault.New(fault.Conflict, "taken", "it is taken")

type greetRequest struct {
	Name string `path:"name"`
	Body struct {
		Loud bool `json:"loud"`
	}
}

type greeting struct {
	Text string `json:"text"`
}

func serve(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	api := rest.New(mux, "test", func(_ context.Context, token string) (rest.Caller, error) {
		switch token {
		case "admin":
			return rest.Caller{Name: "ada", Role: "admin"}, nil
		case "viewer":
			return rest.Caller{Name: "vic", Role: "viewer"}, nil
		}
		return rest.Caller{}, rest.ErrNoToken
	}, slog.New(slog.DiscardHandler))
	rest.Handle(api, rest.Op{Method: "POST", Path: "/api/v1/greet/{name}", Summary: "Greet", Need: rest.Write},
		func(_ context.Context, c rest.Caller, r *greetRequest) (*greeting, error) {
			switch r.Name {
			case "taken":
				return nil, errTaken
			case "broken":
				return nil, errors.New("password=hunter2")
			}
			return &greeting{Text: c.Name + " greets " + r.Name + " " + c.Reason}, nil
		})
	rest.Handle(api, rest.Op{Method: "DELETE", Path: "/api/v1/greet/{name}", Summary: "Forget", Need: rest.Write},
		func(_ context.Context, c rest.Caller, r *struct {
			Name string `path:"name"`
		}) (*rest.None, error) {
			return nil, nil
		})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func do(t *testing.T, s *httptest.Server, method, path, token, body string) (int, string) {
	t.Helper()
	req, _ := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Countersign-Reason", "because")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var sb strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := resp.Body.Read(buf)
		sb.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return resp.StatusCode, sb.String()
}

func TestHandle(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
		contains                        string
	}{
		{"greets", "POST", "/api/v1/greet/bob", "admin", `{"loud":true}`, 200, "ada greets bob because"},
		{"no token", "POST", "/api/v1/greet/bob", "", `{"loud":true}`, 401, "no_token"},
		{"role", "POST", "/api/v1/greet/bob", "viewer", `{"loud":true}`, 403, "role_required"},
		{"unknown field", "POST", "/api/v1/greet/bob", "admin", `{"loud":true,"x":"hunter2"}`, 422, "unexpected"},
		{"wrong type", "POST", "/api/v1/greet/bob", "admin", `{"loud":"hunter2"}`, 422, `"code":"invalid_request"`},
		{"no JSON", "POST", "/api/v1/greet/bob", "admin", `{"loud":"hunter2`, 400, `"code":"invalid_request"`},
		{"duplicate name", "POST", "/api/v1/greet/bob", "admin", `{"loud":true,"loud":false}`, 400, "duplicate"},
		{"fault", "POST", "/api/v1/greet/taken", "admin", `{"loud":true}`, 409, `"code":"taken"`},
		{"no body", "DELETE", "/api/v1/greet/bob", "admin", "", 204, ""},
		{"foreign error", "POST", "/api/v1/greet/broken", "admin", `{"loud":true}`, 500, `"code":"internal"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := do(t, s, c.method, c.path, c.token, c.body)
			if status != c.status || !strings.Contains(body, c.contains) || strings.Contains(body, "hunter2") {
				t.Errorf("%d %s", status, body)
			}
			if status >= 400 {
				var p rest.Problem
				if err := json.Unmarshal([]byte(body), &p); err != nil || p.Request == "" {
					t.Errorf("not a problem document: %s (%v)", body, err)
				}
			}
		})
	}
}

func TestRoomsMayNameTypesAlike(t *testing.T) {
	mux := http.NewServeMux()
	api := rest.New(mux, "test", nil, slog.New(slog.DiscardHandler))
	func() {
		type put struct {
			Body struct {
				Name string `json:"name"`
			}
		}
		declare[put](api, "one")
	}()
	func() {
		type put struct {
			Body struct {
				Size int `json:"size"`
			}
		}
		declare[put](api, "two") // panics if names clash
	}()
}

func declare[Req any](api *rest.API, room string) {
	rest.Handle(api, rest.Op{Method: "PUT", Path: "/api/v1/" + room, Summary: "Put", Tag: room, Need: rest.Write},
		func(context.Context, rest.Caller, *Req) (*rest.None, error) { return nil, nil })
}

// A stream ends when its caller is no longer welcome, and who was refused is
// told.
func TestAStreamEndsWithItsToken(t *testing.T) {
	var revoked atomic.Bool
	mux := http.NewServeMux()
	api := rest.New(mux, "test", func(context.Context, string) (rest.Caller, error) {
		if revoked.Load() {
			return rest.Caller{}, rest.ErrNoToken
		}
		return rest.Caller{Name: "vic", Role: "viewer"}, nil
	}, slog.New(slog.DiscardHandler))
	var refused atomic.Int64
	api.Refused = func(_ rest.Caller, op rest.Op, p *rest.Problem) {
		if op.Path == "/api/v1/tail" && p.Status == 401 {
			refused.Add(1)
		}
	}
	rest.HandleStream(api, rest.Op{Method: "GET", Path: "/api/v1/tail", Summary: "Tail"}, "text/event-stream",
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (rest.Stream, error) {
			return func(w http.ResponseWriter) error {
				w.(http.Flusher).Flush()
				<-ctx.Done()
				return nil
			}, nil
		})
	s := httptest.NewServer(mux)
	defer s.Close()
	req, _ := http.NewRequest("GET", s.URL+"/api/v1/tail", nil)
	req.Header.Set("Authorization", "Bearer x")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	revoked.Store(true)
	if _, err := io.ReadAll(resp.Body); err != nil { // ends, or the test does not
		t.Error(err)
	}
	if status, _ := do(t, s, "GET", "/api/v1/tail", "x", ""); status != 401 || refused.Load() != 1 {
		t.Errorf("status %d, %d told", status, refused.Load())
	}
}
