package secrets_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/leaktest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestPutInjectRotateDelete(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := settle(t, db)
		w.put(spec("openai-key"), plain)
		if got, err := w.inject("openai-key", "api.openai.com"); got != plain || err != nil {
			t.Fatalf("injected %q, %v", got, err)
		}
		if changed, err := w.Put(ctx, w.by, "again", spec("openai-key"), secrets.NewValue([]byte(plain))); changed || err != nil {
			t.Errorf("the same again: changed %v, %v", changed, err)
		}
		if changed, err := w.Put(ctx, w.by, "hosts", spec("openai-key", "API.openai.com"), secrets.Value{}); !changed || err != nil {
			t.Errorf("hosts: changed %v, %v", changed, err)
		}
		if got, err := w.inject("openai-key", "api.openai.com:443"); got != plain || err != nil {
			t.Errorf("after new hosts %q, %v", got, err)
		}
		w.put(spec("openai-key", "api.openai.com"), "another value")
		if got, _ := w.inject("openai-key", "api.openai.com"); got != "another value" {
			t.Errorf("after rotation %q", got)
		}
		if s, _ := w.Secret("openai-key"); s.Version != 2 || s.Owner != "pat" {
			t.Errorf("%+v", s)
		}
		if err := w.Delete(ctx, w.by, "gone", "openai-key"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.inject("openai-key", "api.openai.com"); !errors.Is(err, secrets.ErrNotFound) {
			t.Errorf("after deletion %v", err)
		}
		want := []audit.Type{"secret.created", "secret.updated", "secret.rotated", "secret.deleted"}
		if got := w.events("secret/openai-key"); !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
	})
}

// events lists the types of events about object, oldest first, and checks that
// each says who and why.
func (w *world) events(object string) (types []audit.Type) {
	w.t.Helper()
	records, err := w.log.List(ctx, audit.Query{Oldest: true, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range records {
		if r.Event.Object == object {
			types = append(types, r.Event.Type)
			if r.Event.Actor.Name != "pat" || r.Event.Reason == "" {
				w.t.Errorf("event %s by %v because %q", r.Event.Type, r.Event.Actor, r.Event.Reason)
			}
		}
	}
	return types
}

func TestInjectRefuses(t *testing.T) {
	w := settle(t, storagetest.Open(t, storagetest.SQLite(t)))
	w.put(spec("key", "api.openai.com", "[::1]:8080"), plain)
	r, call := w.receipt()
	for name, c := range map[string]struct {
		receipt audit.Receipt
		use     secrets.Use
		want    error
	}{
		"no receipt":         {audit.Receipt{}, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "api.openai.com"}, secrets.ErrNoReceipt},
		"another call":       {r, secrets.Use{Call: "call_x", Secret: "key", Connection: "openai", Host: "api.openai.com"}, secrets.ErrNoReceipt},
		"no call":            {r, secrets.Use{Secret: "key", Connection: "openai", Host: "api.openai.com"}, secrets.ErrNoReceipt},
		"no such secret":     {r, secrets.Use{Call: call, Secret: "other", Connection: "openai", Host: "api.openai.com"}, secrets.ErrNotFound},
		"another connection": {r, secrets.Use{Call: call, Secret: "key", Connection: "ledger", Host: "api.openai.com"}, secrets.ErrConnection},
		"another host":       {r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "api.openai.com.evil.example"}, secrets.ErrHost},
		"a subdomain":        {r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "x.api.openai.com"}, secrets.ErrHost},
		"another port":       {r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "[::1]:8081"}, secrets.ErrHost},
		"a port left out":    {r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "::1"}, secrets.ErrHost},
		"a program":          {r, secrets.Use{Call: call, Secret: "key", Connection: "openai"}, secrets.ErrHost},
		"garbage":            {r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "api.openai.com@evil.example"}, secrets.ErrHost},
		"allowed":            {r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "API.OpenAI.com.:443"}, nil},
		"allowed with port":  {r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "[::1]:8080"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w.poll()
			v, err := w.Inject(ctx, c.receipt, c.use)
			if !errors.Is(err, c.want) || v.IsZero() != (c.want != nil) {
				t.Errorf("got %d bytes, %v; want %v", v.Len(), err, c.want)
			}
		})
	}
	stale := replicaWithoutPolls(t, w)
	if _, err := stale.Inject(ctx, r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "api.openai.com"}); !errors.Is(err, secrets.ErrStale) {
		t.Errorf("a replica that sees nothing: %v", err)
	}
	w.Close(ctx)
	if _, err := w.Inject(ctx, r, secrets.Use{Call: call, Secret: "key", Connection: "openai", Host: "api.openai.com"}); err == nil {
		t.Error("injected after Close")
	}
}

func replicaWithoutPolls(t *testing.T, w *world) *secrets.Service {
	t.Helper()
	keeper, err := secrets.OpenKeeper(ctx, keyURL())
	if err != nil {
		t.Fatal(err)
	}
	s, err := secrets.New(w.db, w.log, storage.NewWatcher(w.db, nil), keeper, secrets.Options{Matcher: w.scanner.Known()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPutRefuses(t *testing.T) {
	w := settle(t, storagetest.Open(t, storagetest.SQLite(t)))
	for name, c := range map[string]struct {
		spec  secrets.Spec
		value string
		want  error
	}{
		"short value":     {spec("a"), "1234567", secrets.ErrInvalid},
		"blank value":     {spec("a"), "\n\n\n\n\n\n\n\n\n", secrets.ErrInvalid},
		"trailing space":  {spec("a"), "some value ", secrets.ErrInvalid},
		"huge value":      {spec("a"), strings.Repeat("x", secrets.MaxValue+1), secrets.ErrInvalid},
		"no value":        {spec("a"), "", secrets.ErrNoValue},
		"no name":         {spec(""), plain, secrets.ErrInvalid},
		"bad name":        {spec("A/b"), plain, secrets.ErrInvalid},
		"no connection":   {secrets.Spec{Name: "a", Owner: "pat"}, plain, secrets.ErrInvalid},
		"unknown owner":   {secrets.Spec{Name: "a", Owner: "nobody", Connection: "openai"}, plain, secrets.ErrOwner},
		"host with path":  {spec("a", "api.openai.com/v1"), plain, secrets.ErrInvalid},
		"host as URL":     {spec("a", "https://api.openai.com"), plain, secrets.ErrInvalid},
		"wildcard":        {spec("a", "*.openai.com"), plain, secrets.ErrInvalid},
		"port zero":       {spec("a", "api.openai.com:0"), plain, secrets.ErrInvalid},
		"user in host":    {spec("a", "u@api.openai.com"), plain, secrets.ErrInvalid},
		"too many hosts":  {spec("a", strings.Fields(strings.Repeat("h.example ", 33))...), plain, secrets.ErrInvalid},
		"huge reason":     {spec("reason"), plain, secrets.ErrReason},
		"control in host": {spec("a", "api\n.example"), plain, secrets.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			reason := "because"
			if c.want == secrets.ErrReason {
				reason = strings.Repeat("x", 1001)
			}
			changed, err := w.Put(ctx, w.by, reason, c.spec, secrets.NewValue([]byte(c.value)))
			if !errors.Is(err, c.want) || changed {
				t.Errorf("changed %v, %v", changed, err)
			}
			if c.value != "" && strings.Contains(fmt.Sprint(err), c.value) {
				t.Errorf("the error shows the value: %v", err)
			}
		})
	}
	if all, err := w.List(ctx); len(all) != 0 || err != nil {
		t.Errorf("stored %v, %v", all, err)
	}
}

func TestRowsCannotBeSwappedOrRedirected(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := settle(t, db)
		for name, tamper := range map[string][]string{
			"value of another":   {`UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'b') WHERE name = 'a'`},
			"another connection": {`UPDATE secrets SET connection = 'evil' WHERE name = 'a'`},
			"another host":       {`UPDATE secrets SET hosts = '["evil.example"]' WHERE name = 'a'`},
			"no host":            {`UPDATE secrets SET hosts = '[]' WHERE name = 'a'`},
			"hosts no JSON":      {`UPDATE secrets SET hosts = '[' WHERE name = 'a'`},
			"another version":    {`UPDATE secrets SET version = 7 WHERE name = 'a'`},
			"another name":       {`DELETE FROM secrets WHERE name = 'a'`, `UPDATE secrets SET name = 'a' WHERE name = 'b'`},
			"another identifier": {`UPDATE secrets SET id = 'x' WHERE name = 'a'`},
			"cut short":          {`UPDATE secrets SET sealed = substr(sealed, 1, 20) WHERE name = 'a'`},
		} {
			w.put(spec("a", "api.example"), plain)
			w.put(spec("b", "api.example"), "value number two")
			exec(t, db, tamper...)
			w.cannotInject(name)
			if all, err := w.List(ctx); err != nil || len(all) == 0 || !all[0].Broken {
				t.Errorf("%s: not shown as broken: %+v, %v", name, all, err)
			}
			if s, ok := w.Secret("a"); !ok || !s.Broken {
				t.Errorf("%s: %+v", name, s)
			}
			w.put(spec("a", "api.example"), plain) // as the message says
			if got, err := w.inject("a", "api.example"); got != plain {
				t.Errorf("%s: after putting it again: %q, %v", name, got, err)
			}
			exec(t, db, `DELETE FROM secrets`)
		}
	})
}

// cannotInject checks that the secret a goes nowhere.
func (w *world) cannotInject(why string) {
	w.t.Helper()
	r, call := w.receipt()
	for _, conn := range []string{"openai", "evil"} {
		for _, host := range []string{"api.example", "evil.example"} {
			w.poll()
			v, err := w.Inject(ctx, r, secrets.Use{Call: call, Secret: "a", Connection: conn, Host: host})
			if err == nil {
				w.t.Errorf("%s: %s at %s got %q", why, conn, host, v.Expose())
			}
		}
	}
}

func exec(t *testing.T, db *storage.DB, statements ...string) {
	t.Helper()
	err := db.Tx(ctx, func(tx *storage.Tx) error {
		for _, q := range statements {
			if _, err := tx.Exec(ctx, q); err != nil {
				return err
			}
		}
		return storage.Bump(ctx, tx, secrets.Watched)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestReplicasAgree(t *testing.T) {
	dsn := storagetest.Postgres(t)
	a := settle(t, storagetest.Open(t, dsn))
	b := replica(t, storagetest.Open(t, dsn), keyURL())
	if !bytes.Equal(a.Derive("x/v1"), b.Derive("x/v1")) || bytes.Equal(a.Derive("x/v1"), a.Derive("y/v1")) || len(a.Derive("x/v1")) != 32 {
		t.Error("derived keys differ between replicas or agree between labels")
	}
	a.put(spec("key"), plain)
	if got, err := b.inject("key", ""); got != plain {
		t.Errorf("the other replica injects %q, %v", got, err)
	}
	if out := b.scanner.Redact([]byte("x " + plain)); bytes.Contains(out, []byte(plain)) {
		t.Errorf("the other replica would log %s", out)
	}
}

func TestARestartForgetsNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		a := settle(t, db)
		a.put(spec("key"), plain)
		before := a.Derive("x/v1")
		a.log.Close(ctx)
		b := replica(t, db, keyURL())
		if !bytes.Equal(before, b.Derive("x/v1")) {
			t.Error("another derived key after the restart")
		}
		if out := b.scanner.Redact([]byte("x " + plain)); bytes.Contains(out, []byte(plain)) {
			t.Errorf("would log %s", out)
		}
		if got, err := b.inject("key", ""); got != plain {
			t.Errorf("injects %q, %v", got, err)
		}
	})
}

func TestLastUseIsStoredOncePerMinute(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := settle(t, db)
		w.put(spec("key"), plain)
		first := w.clock.now()
		for range 6 {
			if _, err := w.inject("key", ""); err != nil {
				t.Fatal(err)
			}
			w.clock.add(11 * time.Second)
		}
		w.usedAt(first)
		second := w.clock.now() // 66 seconds later
		if _, err := w.inject("key", ""); err != nil {
			t.Fatal(err)
		}
		w.usedAt(second)
	})
}

// usedAt checks the last use of the only secret once all writes have ended.
func (w *world) usedAt(at time.Time) {
	w.t.Helper()
	if err := w.Settle(ctx); err != nil {
		w.t.Fatal(err)
	}
	if all, err := w.List(ctx); err != nil || !all[0].LastUsed.Equal(at) {
		w.t.Errorf("last used %+v, want %v (%v)", all, at, err)
	}
}

func TestOwnersAndConnectionsAreKept(t *testing.T) {
	w := settle(t, storagetest.Open(t, storagetest.SQLite(t)))
	w.put(spec("key"), plain)
	for object, want := range map[string]error{"user/pat": secrets.ErrInUse, "connection/openai": secrets.ErrInUse, "user/openai": nil, "connection/pat": nil} {
		err := w.log.Change(ctx, func(tx *audit.Tx) error {
			return errors.Join(w.KeepOwners(ctx, tx, w.by, "", object), w.KeepConnections(ctx, tx, w.by, "", object))
		})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", object, err)
		}
	}
}

func TestNothingPlainIsStored(t *testing.T) {
	dir := t.TempDir()
	db := storagetest.Open(t, filepath.Join(dir, "countersign.db"))
	w := settle(t, db)
	values := leaktest.Secrets{"first": plain, "second": "p\"a\\ss wörd <&>", "third": "12345678901234567890"}
	for name, v := range values {
		// A careless reason, with the first event and later.
		if _, err := w.Put(ctx, w.by, "it is "+v, spec(name), secrets.NewValue([]byte(v))); err != nil {
			t.Fatal(err)
		}
		if _, err := w.inject(name, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Put(ctx, w.by, "it was "+v, spec(name, "h.example"), secrets.Value{}); err != nil {
			t.Fatal(err)
		}
	}
	w.put(spec("first"), "the value after it")
	if _, err := w.log.Append(ctx, audit.Event{Type: audit.UpstreamUsed, Actor: audit.System, Reason: "late answer: " + plain}); err != nil {
		t.Fatal(err) // the former value must stay hidden too
	}
	if err := w.log.Close(ctx); err != nil {
		t.Fatal(err)
	}
	leaktest.Files(t, values, dir)
	if err := db.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	leaktest.Files(t, values, dir)
}

func TestErrorsHaveAKind(t *testing.T) {
	for _, err := range []error{secrets.ErrNoReceipt, secrets.ErrHost, secrets.ErrConnection} {
		if fault.KindOf(err) != fault.Denied {
			t.Errorf("%v is %v", err, fault.KindOf(err))
		}
	}
}
