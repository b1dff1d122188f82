package identity_test

import (
	"errors"
	"testing"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// FuzzAuthenticate: whatever is presented, only what was issued passes, and
// nothing panics.
func FuzzAuthenticate(f *testing.F) {
	w := settle(f, storagetest.Open(f, storagetest.SQLite(f)))
	_, key := w.key(0)
	_, run := w.run(0)
	for _, s := range []string{"", key, run, mintLike("csk_"), mintLike("csu_"), "csk_", "eyJ..", "eyJhbGciOiJub25lIn0.e30.", key + "\x00", "\xff" + key} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := w.watch.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		c, err := w.Authenticate(ctx, s)
		if err == nil && s != key && s != run {
			t.Fatalf("%q passed as %s", s, c.Agent.Name)
		}
		if err != nil && !errors.Is(err, identity.ErrCredential) {
			t.Fatalf("%q: %v", s, err)
		}
		if identity.WellFormed(identity.KeyPrefix, s) && identity.WellFormed(identity.TokenPrefix, s) {
			t.Fatalf("%q is both", s)
		}
	})
}
