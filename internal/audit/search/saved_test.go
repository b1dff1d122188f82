package search_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestSavedSearches(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		f := setup(t, db)
		ctx := t.Context()
		ada, ben := audit.Person("usr_1", "ada"), audit.Person("usr_2", "ben")
		save := func(by audit.Actor, name, query string, shared bool) error {
			_, err := f.s.Save(ctx, by, "for the audit", search.Saved{Name: name, Query: query, Shared: shared})
			return err
		}
		for _, err := range []error{save(ada, "denied", "decision:deny", true), save(ada, "mine", "agent:x", false), save(ben, "denied", "type:call.denied", false), save(ada, "denied", "decision:deny since:2h", true)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		names := func(user string) (out []string) {
			all, err := f.s.SavedBy(ctx, user)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all {
				out = append(out, fmt.Sprint(s.ID, "=", s.Query, " ", s.Mine))
			}
			return out
		}
		if got := strings.Join(names("ada"), "; "); got != "ada/denied=decision:deny since:2h true; ada/mine=agent:x true" {
			t.Error(got)
		}
		if got := strings.Join(names("ben"), "; "); got != "ada/denied=decision:deny since:2h false; ben/denied=type:call.denied true" {
			t.Error(got)
		}
		for want, err := range map[error]error{
			search.ErrSavedName: save(ada, "Not A Name", "x", false), search.ErrQuery: save(ada, "bad", "nofield:x", false),
			search.ErrNoSaved: f.s.DeleteSaved(ctx, ben, "", "mine"),
		} {
			if !errors.Is(err, want) {
				t.Errorf("%v, not %v", err, want)
			}
		}
		if err := f.s.DeleteSaved(ctx, ada, "done", "denied"); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(names("ben"), "; "); got != "ben/denied=type:call.denied true" {
			t.Error(got)
		}
		recs, err := f.log.List(ctx, audit.Query{Types: []audit.Type{"search.saved", "search.deleted"}})
		if err != nil || len(recs) != 5 || recs[0].Event.Reason != "done" || recs[0].Event.Object != "search/ada/denied" || strings.Contains(string(recs[1].Raw), "since:2h") {
			t.Errorf("%d %v", len(recs), err)
		}
		for i := range 200 {
			if err := save(ben, fmt.Sprint("s", i), "x", false); err != nil && (i < 199 || !errors.Is(err, search.ErrSavedMany)) {
				t.Fatal(i, err)
			}
		}
		if err := save(ben, "one-more", "x", false); !errors.Is(err, search.ErrSavedMany) {
			t.Error(err)
		}
		if err := save(ben, "denied", "y", false); err != nil {
			t.Errorf("replacing is not adding: %v", err)
		}
	})
}

func TestSavedSearchesInTheAPI(t *testing.T) {
	f := setup(t, storagetest.Open(t, storagetest.SQLite(t)))
	do := serve(t, f)
	f.body = `{"query":"decision:deny","shared":true}`
	if code, body := do("PUT", "viewer /api/v1/log/searches/denied", nil); code != 200 || !strings.Contains(body, `"id":"viewer/denied"`) {
		t.Fatalf("%d %s", code, body)
	}
	f.body = `{"query":"decision:"}`
	if code, body := do("PUT", "viewer /api/v1/log/searches/denied", nil); code != 400 || !strings.Contains(body, "column") {
		t.Errorf("%d %s", code, body)
	}
	f.body = ""
	if code, body := do("GET", "admin /api/v1/log/searches", nil); code != 200 || !strings.Contains(body, "decision:deny") {
		t.Errorf("%d %s", code, body)
	}
	if code, body := do("DELETE", "admin /api/v1/log/searches/denied", nil); code != 404 {
		t.Errorf("another's: %d %s", code, body)
	}
	if code, body := do("DELETE", "viewer /api/v1/log/searches/denied", nil); code != 204 {
		t.Errorf("%d %s", code, body)
	}
}
