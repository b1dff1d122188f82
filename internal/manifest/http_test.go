package manifest_test

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/manifest"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestAPI(t *testing.T) {
	w := build(t, storagetest.Open(t, storagetest.SQLite(t)))
	mux := http.NewServeMux()
	api := rest.New(mux, "test", func(context.Context, string) (rest.Caller, error) {
		return rest.Caller{ID: w.by.ID, Name: w.by.Name, Role: "admin"}, nil
	}, slog.New(slog.DiscardHandler))
	w.Routes(api)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	call := func(method, path, body string) (int, string) {
		req, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer x")
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	body, err := json.Marshal(map[string]any{"files": firm(), "secrets": map[string]string{"openai-key": "sk-live-0123456789", "ledger-secret": "ledger-0123456789"}})
	if err != nil {
		t.Fatal(err)
	}
	var res manifest.Result
	status, text := call("POST", "/api/v1/apply", string(body))
	if err := json.Unmarshal([]byte(text), &res); status != 200 || err != nil || res.Outcome != manifest.Applied || len(res.Changes) != 12 || res.Problems == nil {
		t.Fatalf("%d %v %s", status, err, text)
	}
	for _, bad := range []string{
		`{"files":[],"secrets":{"a":"hunter2-hunter2"},"extra":1}`,
		`{"files":[],"secrets":{"a":["hunter2-hunter2"]}}`,
		`{"files":[],"secrets":{"a":"hunter2-hunter2","a":"x"}}`,
		`{"files":[],"secrets":{"a":"hunter2-hunter2"`,
	} {
		if status, text := call("POST", "/api/v1/apply", bad); status < 400 || status > 422 || strings.Contains(text, "hunter2") {
			t.Errorf("%d %s", status, text)
		}
	}
	status, text = call("GET", "/api/v1/export", "")
	if status != 200 || !strings.Contains(text, "limits.cedar") || bytes.Contains([]byte(text), []byte("0123456789")) {
		t.Errorf("%d %s", status, text)
	}
}
