package seal_test

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestAPI(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	l := openLog(t, db)
	s := open(t, db, l, options(t))
	ids := record(t, l, 20)
	drain(t, s)
	mux := http.NewServeMux()
	s.Routes(rest.New(mux, "test", func(_ context.Context, token string) (rest.Caller, error) {
		if token != "admin" && token != "auditor" {
			return rest.Caller{}, rest.ErrNoToken
		}
		return rest.Caller{ID: "usr_1", Name: token, Role: token}, nil
	}, logger(t)))
	call := func(token, method, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w
	}
	tr, _ := trust(t, s)
	w := call("auditor", "GET", "/api/v1/log/proof/"+ids[3], "")
	if shown, err := tlog.VerifyProof(w.Body.Bytes(), tr); err != nil || !strings.Contains(shown.Record, ids[3]) {
		t.Errorf("%d %v %s", w.Code, err, w.Body)
	}
	if w := call("auditor", "GET", "/api/v1/log/export", ""); w.Code != 200 {
		t.Error(w.Code, w.Body)
	} else if _, err := tlog.VerifyExport(bytes.NewReader(w.Body.Bytes()), tr, nil); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		token, method, path, body string
		want                      int
	}{
		{"", "GET", "/api/v1/log/key", "", 200},
		{"", "GET", "/api/v1/log/status", "", 401},
		{"auditor", "GET", "/api/v1/log/status", "", 200},
		{"auditor", "GET", "/api/v1/log/checkpoints?limit=3", "", 200},
		{"auditor", "GET", "/api/v1/log/proof/evt_x", "", 404},
		{"auditor", "POST", "/api/v1/log/verify-tree", "", 200},
		{"auditor", "POST", "/api/v1/log/key/rotate", `{"reason":"x"}`, 403},
		{"admin", "POST", "/api/v1/log/key/rotate", `{}`, 400},
		{"admin", "POST", "/api/v1/log/key/rotate", `{"reason":"yearly"}`, 200},
		{"admin", "POST", "/api/v1/log/accept-rollback", `{"reason":"x"}`, 409},
	} {
		if w := call(c.token, c.method, c.path, c.body); w.Code != c.want {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
	var k seal.Keys
	if err := json.Unmarshal(call("", "GET", "/api/v1/log/key", "").Body.Bytes(), &k); err != nil || len(k.Rotations) != 1 {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestOldCheckpointsAreThinned(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	l := openLog(t, db)
	o := options(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return now }
	s := open(t, db, l, o)
	for range 10 {
		record(t, l, 1)
		drain(t, s)
		now = now.Add(20 * time.Minute)
	}
	if n, err := s.Thin(t.Context()); n != 0 || err != nil {
		t.Error(n, err)
	}
	now = now.Add(48 * time.Hour)
	if n, err := s.Thin(t.Context()); n != 6 || err != nil { // of four hours, one each stays
		t.Error(n, err)
	}
	mustVerify(t, s)
}
