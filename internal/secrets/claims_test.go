package secrets_test

import (
	"encoding/base64"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestClaimsOfACredential(t *testing.T) {
	w := settle(t, storagetest.Open(t, storagetest.SQLite(t)))
	token := func(claims string) string {
		e := base64.RawURLEncoding.EncodeToString
		return e([]byte(`{"alg":"HS256"}`)) + "." + e([]byte(claims)) + "." + e([]byte("signature of it"))
	}
	for value, want := range map[string][]string{
		token(`{"sub":"somebody","scope":"read write read"}`):     {"read", "write"},
		token(`{"scp":["Files.Read"],"roles":["Admin"]}`):         {"Admin", "Files.Read"},
		token(`{"access":"m"}`):                                   {"access:manage"},
		token(`{"access":[{"collection":"docs","access":"rw"}]}`): {"docs:rw"},
		token(`{"scope":{"not":"words"},"access":17}`):            nil,
		token(`{"scope":"a","scope":"b"}`):                        nil,
		plain:                                                     nil,
		"aaaaaaaa.bbbbbbbb.cccccccc":                              nil,
	} {
		if _, err := w.Put(ctx, w.by, "a test", secrets.Spec{Name: "key", Owner: "pat", Connection: "up"}, secrets.NewValue([]byte(value))); err != nil {
			t.Fatal(err)
		}
		if err := w.watch.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		if settings, stated := w.Claims("key"); len(settings) != 0 || !slices.Equal(stated, want) {
			t.Errorf("%s: %q %q, want %q", value, settings, stated, want)
		}
	}
	if a, b := w.Claims("nobody"); a != nil || b != nil {
		t.Error("a secret that is not there has claims")
	}
}
