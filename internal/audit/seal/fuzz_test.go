package seal_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// Whatever a witness answers, what is kept of it is its own cosignature of the
// checkpoint that was sent.
func FuzzWitnessAnswer(f *testing.F) {
	seed := sha256.Sum256([]byte("w"))
	signer, vkey := tlog.NewWitness("witness.example/w", ed25519.NewKeyFromSeed(seed[:]), time.Now)
	verifier, err := tlog.ParseWitness(vkey)
	if err != nil {
		f.Fatal(err)
	}
	text := tlog.Checkpoint{Origin: "example.com/log", Size: 7, Root: tlog.Hash{1}}.Text()
	logSigner, _, err := tlog.NewSigner("example.com/log", ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		f.Fatal(err)
	}
	checkpoint, err := note.Sign(&note.Note{Text: text}, logSigner)
	if err != nil {
		f.Fatal(err)
	}
	cosigned, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		f.Fatal(err)
	}
	_, line, _ := strings.Cut(string(cosigned), "\n\n")
	f.Add([]byte(line))
	f.Add([]byte("garbage\n" + line + line))
	f.Add([]byte("\u2014 witness.example/w AAAA\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		kept, err := seal.PickCosignature(string(checkpoint), answer, verifier)
		if err != nil {
			return
		}
		n, err := note.Open(append(checkpoint[:len(checkpoint):len(checkpoint)], kept...), note.VerifierList(verifier))
		if err != nil || len(n.Sigs) != 1 || n.Text != text || strings.Count(kept, "\n") != 1 {
			t.Errorf("%q is kept of %q: %v", kept, answer, err)
		}
	})
}

// Whatever path is asked for beneath /log/, the answer is a tile, a checkpoint
// or a refusal.
func FuzzLogPath(f *testing.F) {
	db := storagetest.Open(f, storagetest.SQLite(f))
	ctx := context.Background()
	l, err := audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close(ctx) })
	s := open(f, db, l, options(f))
	record(f, l, 300)
	sealAll(f, s)
	handler := s.Handler(func(*http.Request) bool { return true })
	for _, path := range []string{"checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/entries/001.p/3", "tile/0/x001/000", "tile/7/999", "../checkpoint", ""} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/log/" + path}}).WithContext(t.Context()))
		tile, err := tlog.ParseTile(path)
		switch {
		case w.Code >= 500:
			t.Errorf("%q: %d %s", path, w.Code, w.Body)
		case w.Code == http.StatusOK && err != nil && path != "checkpoint":
			t.Errorf("%q is answered", path)
		case w.Code == http.StatusOK && err == nil && tile.Level >= 0 && w.Body.Len() != tile.Width*32:
			t.Errorf("%q: %d bytes", path, w.Body.Len())
		}
	})
}
