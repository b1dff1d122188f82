package secrets_test

import (
	"errors"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// states returns the number of the version in each state.
func (w *world) states(name string) map[string]int64 {
	w.t.Helper()
	all, err := w.Versions(ctx, name)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]int64{}
	for _, v := range all {
		out[v.State] = v.Number
	}
	return out
}

func (w *world) change(fn func(tx *audit.Tx) error) error {
	w.t.Helper()
	err := w.log.Change(ctx, fn)
	w.poll()
	return err
}

func (w *world) pend(name, rotation, value string) {
	w.t.Helper()
	if err := w.change(func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: "secret.rotation_tried", Actor: w.by})
		_, err := w.PendTx(ctx, tx, name, rotation, "ref-"+rotation, secrets.NewValue([]byte(value)))
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) promote(name, rotation string) error {
	return w.change(func(tx *audit.Tx) error {
		_, err := w.PromoteTx(ctx, tx, w.by, "because", name, rotation)
		return err
	})
}

func (w *world) want(name, value string) {
	w.t.Helper()
	if got, err := w.inject(name, "api.openai.com"); err != nil || got != value {
		w.t.Errorf("got %q, %v; want %q", got, err, value)
	}
}

func TestVersions(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := settle(t, db)
		w.put(spec("key"), plain+" 1")
		if err := w.Rollback(ctx, w.by, "because", "key"); !errors.Is(err, secrets.ErrNoPrevious) {
			t.Errorf("nothing to go back to: %v", err)
		}
		w.put(spec("key"), plain+" 2")
		if s := w.states("key"); s[secrets.Current] != 2 || s[secrets.Previous] != 1 || len(s) != 2 {
			t.Errorf("%v", s)
		}
		// What a version is sealed with changes with the secret.
		if _, err := w.Put(ctx, w.by, "because", spec("key", "api.openai.com"), secrets.Value{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{plain + " 1", plain + " 2", plain + " 1"} {
			if err := w.Rollback(ctx, w.by, "because", "key"); err != nil {
				t.Fatal(err)
			}
			w.want("key", want)
		}
		w.put(spec("key", "api.openai.com"), plain+" 3") // no number is used twice
		if s := w.states("key"); s[secrets.Current] != 3 || s[secrets.Previous] != 1 {
			t.Errorf("%v", s)
		}
		if err := w.Rollback(ctx, w.by, "because", "nothing"); !errors.Is(err, secrets.ErrNotFound) {
			t.Error(err)
		}
		if err := w.Delete(ctx, w.by, "because", "key"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPendingVersionsArePromotedOnce(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := settle(t, db)
		w.put(spec("key"), plain+" 1")
		w.pend("key", "rot_a", plain+" a")
		w.want("key", plain+" 1")
		if err := w.promote("key", "rot_b"); !errors.Is(err, secrets.ErrNoPending) {
			t.Errorf("another rotation's: %v", err)
		}
		if _, err := w.Put(ctx, w.by, "because", spec("key", "api.openai.com"), secrets.Value{}); err != nil {
			t.Fatal(err)
		}
		if err := w.promote("key", "rot_a"); err != nil {
			t.Fatal(err)
		}
		w.want("key", plain+" a")
		if sec, _ := w.Secret("key"); sec.Ref != "ref-rot_a" || sec.Version != 2 {
			t.Errorf("%+v", sec)
		}
		if err := w.promote("key", "rot_a"); !errors.Is(err, secrets.ErrNoPending) {
			t.Errorf("twice: %v", err)
		}
		w.pend("key", "rot_c", plain+" c")
		w.put(spec("key"), plain+" by hand")
		if err := w.promote("key", "rot_c"); !errors.Is(err, secrets.ErrNoPending) {
			t.Errorf("over a value that somebody put: %v", err)
		}
		w.want("key", plain+" by hand")
	})
}

func TestVersionsCannotBeSwappedInTheDatabase(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := settle(t, db)
		for _, name := range []string{"a", "b"} {
			w.put(spec(name), plain+" old "+name)
			w.put(spec(name), plain+" new "+name)
		}
		exec(t, db, `UPDATE secret_versions SET sealed = (SELECT v.sealed FROM secret_versions v JOIN secrets s ON s.id = v.secret WHERE s.name = 'b')
			WHERE secret = (SELECT id FROM secrets WHERE name = 'a')`)
		if err := w.Rollback(ctx, w.by, "because", "a"); !errors.Is(err, secrets.ErrSealed) {
			t.Errorf("the version of another secret: %v", err)
		}
		for _, q := range []string{`UPDATE secrets SET source = 'env://HOME' WHERE name = 'b'`, `UPDATE secrets SET kind = '', settings = '{"token_url":"https://evil.example"}' WHERE name = 'b'`,
			`UPDATE secrets SET rotation = '{"by":"command"}' WHERE name = 'b'`} {
			exec(t, db, q, `INSERT INTO versions (name, version) VALUES ('secrets', 99) ON CONFLICT (name) DO UPDATE SET version = versions.version + 1`)
			if _, err := w.inject("b", "api.openai.com"); !errors.Is(err, secrets.ErrSealed) {
				t.Errorf("after %s: %v", q, err)
			}
		}
	})
}
