package secrets_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/secrets/leaktest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// serve serves the room's operations to whoever calls.
func serve(t *testing.T, w *world, write bool) func(method, path, body string) (int, string) {
	mux := http.NewServeMux()
	auth := func(context.Context, string) (rest.Caller, error) {
		return rest.Caller{ID: w.by.ID, Name: w.by.Name, Role: map[bool]string{true: "admin", false: "viewer"}[write]}, nil
	}
	w.Routes(rest.New(mux, "test", auth, slog.New(slog.DiscardHandler)))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return func(method, path, body string) (int, string) {
		req, _ := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer x")
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Countersign-Reason", "because")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
}

func TestHTTP(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := settle(t, db)
		do := serve(t, w, true)
		const body = `{"value":"` + plain + `","owner":"pat","connection":"openai","hosts":["api.openai.com"]}`
		for _, c := range []struct {
			method, path, body string
			status             int
			says               string
		}{
			{"GET", "/api/v1/secrets", "", 200, "[]"},
			{"PUT", "/api/v1/secrets/openai-key", body, 200, `"changed":true`},
			{"PUT", "/api/v1/secrets/openai-key", body, 200, `"changed":false`},
			{"GET", "/api/v1/secrets", "", 200, `"hosts":["api.openai.com"]`},
			{"GET", "/api/v1/secrets/openai-key", "", 200, `"version":1`},
			{"PUT", "/api/v1/secrets/openai-key", `{"owner":"pat","connection":"openai"}`, 200, `"changed":true`},
			{"PUT", "/api/v1/secrets/bad", `{"value":"short1","owner":"pat","connection":"openai"}`, 400, "secret_invalid"},
			{"PUT", "/api/v1/secrets/bad", `{"value":"` + plain + `","owner":"pat","connection":"openai","unknown":1}`, 422, "invalid_request"},
			{"PUT", "/api/v1/secrets/bad", `{"value":["` + plain + `"]}`, 422, "invalid_request"},
			{"PUT", "/api/v1/secrets/bad", `"` + plain, 400, "invalid_request"},
			{"PUT", "/api/v1/secrets/bad", `{"value":"` + plain + `","owner":"nobody","connection":"openai"}`, 400, "secret_owner_unknown"},
			{"DELETE", "/api/v1/secrets/openai-key", "", 204, ""},
			{"DELETE", "/api/v1/secrets/openai-key", "", 404, "secret_not_found"},
			{"GET", "/api/v1/secrets/openai-key", "", 404, "secret_not_found"},
		} {
			status, got := do(c.method, c.path, c.body)
			if status != c.status || !strings.Contains(got, c.says) {
				t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, status, got)
			}
			leaktest.Bytes(t, leaktest.Secrets{"value": plain}, c.method+" "+c.path, []byte(got))
		}
		if status, _ := serve(t, w, false)("PUT", "/api/v1/secrets/x", body); status != 403 {
			t.Errorf("a reader put a secret: %d", status)
		}
	})
}
