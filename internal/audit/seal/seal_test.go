package seal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var person = audit.Person("usr_1", "ada")

func logger(t testing.TB) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.DiscardHandler)
}

func openLog(t testing.TB, db *storage.DB) *audit.Log {
	t.Helper()
	l, err := audit.Open(t.Context(), db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k"), Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.Background()) })
	return l
}

func options(t testing.TB) seal.Options {
	t.Helper()
	s, err := seal.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return seal.Options{Origin: "example.com/log", Sealer: s, Every: 10 * time.Millisecond, Logger: logger(t)}
}

func open(t testing.TB, db *storage.DB, l *audit.Log, o seal.Options) *seal.Service {
	t.Helper()
	s, err := seal.New(t.Context(), db, l, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

// record appends n events and returns their identifiers.
func record(t testing.TB, l *audit.Log, n int) []string {
	t.Helper()
	ids := make([]string, n)
	errs := make(chan error, 16)
	for w := range 16 {
		go func() {
			for i := w; i < n; i += 16 {
				ref, err := l.Append(t.Context(), audit.Event{Type: "test.done", Actor: person, Object: fmt.Sprintf("thing/%d", i)})
				if err != nil {
					errs <- err
					return
				}
				ids[i] = ref.ID
			}
			errs <- nil
		}()
	}
	for range 16 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// sealAll seals until nothing is left.
func sealAll(t testing.TB, s *seal.Service) {
	t.Helper()
	for {
		n, err := s.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st, err := s.Status(t.Context()); err != nil {
			t.Fatal(err)
		} else if n == 0 && st.Behind == 0 {
			return
		}
	}
}

func mustVerify(t testing.TB, s *seal.Service) seal.Report {
	t.Helper()
	rep, err := s.Verify(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Problems) > 0 || rep.Records != rep.Size {
		t.Fatalf("%d of %d records, problems %v", rep.Records, rep.Size, rep.Problems)
	}
	return rep
}

func trust(t testing.TB, s *seal.Service) (tlog.Trust, []string) {
	t.Helper()
	k, err := s.Keys(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return tlog.Trust{Key: k.First}, k.Rotations
}

// fetcher reads what the handler serves.
func fetcher(h http.Handler) tlog.Fetch {
	return func(path string) ([]byte, error) {
		r := httptest.NewRequest(http.MethodGet, "/log/"+path, nil)
		r.Header.Set("Authorization", "Bearer x")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusNotFound {
			return nil, tlog.ErrAbsent
		}
		if w.Code != http.StatusOK {
			return nil, fmt.Errorf("%d: %s", w.Code, w.Body)
		}
		return w.Body.Bytes(), nil
	}
}

func TestEveryEventIsProven(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		l := openLog(t, db)
		s := open(t, db, l, options(t))
		var ids []string
		var older []byte
		for i, n := range []int{1, 300, 7, 700} {
			ids = append(ids, record(t, l, n)...)
			sealAll(t, s)
			if i == 1 {
				older, _ = fetcher(s.Handler(nil))("checkpoint")
			}
		}
		rep := mustVerify(t, s)
		if rep.Size < int64(len(ids)) || rep.Checkpoints < 4 {
			t.Errorf("%+v", rep)
		}
		tr, rot := trust(t, s)
		seen := map[int64]string{}
		for _, id := range ids {
			f, err := s.Prove(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			b, err := f.Encode()
			if err != nil {
				t.Fatal(err)
			}
			shown, err := tlog.VerifyProof(b, tr)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(shown.Record, id) || !shown.Trusted || seen[shown.Index] != "" {
				t.Errorf("%s: %+v", id, shown)
			}
			seen[shown.Index] = id
		}
		if _, err := s.Prove(ctx, "evt_nothing"); !errors.Is(err, audit.ErrNotFound) {
			t.Error(err)
		}
		if _, err := s.Prove(ctx, record(t, l, 1)[0]); !errors.Is(err, seal.ErrNotSealed) {
			t.Error(err)
		}
		checkServed(t, s, tr, rot, older)
		checkExport(t, s, tr, rep.Size)
	})
}

func checkServed(t *testing.T, s *seal.Service, tr tlog.Trust, rot []string, older []byte) {
	t.Helper()
	open := fetcher(s.Handler(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer x" }))
	shown, err := tlog.VerifyTiles(open, tr, rot, true, nil)
	if err != nil || shown.Entries != shown.Size {
		t.Errorf("%+v, %v", shown, err)
	}
	was, is, err := tlog.VerifyServer(open, older, tr, rot)
	if err != nil || was.Size >= is.Size {
		t.Errorf("%+v, %+v, %v", was, is, err)
	}
	for path, want := range map[string]int{"tile/0/000": 200, "tile/0/003.p/5": 200, "tile/0/000.p/9": 200, "tile/0/900": 404, "tile/1/000.p/200": 404,
		"tile/63/000": 404, "tile/entries/000": 401, "tile/entries/x": 404, "../etc": 404, "checkpoint": 200, "": 404} {
		w := httptest.NewRecorder()
		s.Handler(func(*http.Request) bool { return false }).ServeHTTP(w, &http.Request{Method: "GET", URL: mustURL("/log/" + path)})
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
		if cc := w.Header().Get("Cache-Control"); path == "tile/0/000" && !strings.Contains(cc, "immutable") || want >= 400 && cc != "no-store" {
			t.Errorf("%s: %s", path, cc)
		}
	}
	// Another implementation reads the tiles and agrees on the root.
	root, err := xtlog.TreeHash(shown.Size, xtlog.TileHashReader(xtlog.Tree{N: shown.Size, Hash: xtlog.Hash(shown.Root)}, tileReader{open}))
	if err != nil || tlog.Hash(root) != shown.Root {
		t.Errorf("x/mod reads another root: %v, %v", root, err)
	}
}

// tileReader gives our tiles to golang.org/x/mod/sumdb/tlog.
type tileReader struct{ fetch tlog.Fetch }

func (r tileReader) Height() int { return 8 }
func (r tileReader) ReadTiles(tiles []xtlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		var err error
		if out[i], err = r.fetch(tlog.Tile{Level: t.L, Index: t.N, Width: t.W}.Path()); err != nil {
			return nil, err
		}
	}
	return out, nil
}
func (r tileReader) SaveTiles([]xtlog.Tile, [][]byte) {}

func checkExport(t *testing.T, s *seal.Service, tr tlog.Trust, size int64) {
	t.Helper()
	for _, first := range []int64{0, 1, 255, 256, 500, size} {
		var b bytes.Buffer
		if err := s.Export(t.Context(), first, false, &b); err != nil {
			t.Fatal(err)
		}
		shown, err := tlog.VerifyExport(bytes.NewReader(b.Bytes()), tr, nil)
		if err != nil || shown.Entries != size-first {
			t.Errorf("from %d: %+v, %v", first, shown, err)
		}
	}
	if err := s.Export(t.Context(), size+1000, false, io.Discard); !errors.Is(err, seal.ErrNotSealed) {
		t.Error(err)
	}
}
