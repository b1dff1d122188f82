package server_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Who is turned away from the API is in the log, and a flood of them is a few
// events.
func TestRefusalsOfTheAPIAreRecorded(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.api(t, "PUT", "/users/vic", map[string]any{"role": "viewer"}, nil)
	for range 200 {
		req, _ := http.NewRequest("DELETE", p.url+"/api/v1/users/vic", nil)
		req.Header.Set("Authorization", "Bearer csu_guess")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Fatal(resp.Status)
		}
	}
	var page struct {
		Events []struct {
			Object string `json:"object"`
		} `json:"events"`
	}
	for deadline := time.Now().Add(20 * time.Second); len(page.Events) < 30 && time.Now().Before(deadline); {
		p.api(t, "GET", "/log/events?limit=500&q="+url.QueryEscape("type:auth.refused"), nil, &page)
		time.Sleep(50 * time.Millisecond) // the index follows the log
	}
	if n := len(page.Events); n < 30 || n > 60 || !strings.HasPrefix(page.Events[0].Object, "api/DELETE /api/v1/users/") {
		t.Errorf("%d events, the first %+v", n, page.Events[:min(1, n)])
	}
}
