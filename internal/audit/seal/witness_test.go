package seal_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// witnessServer is a witness as C2SP tlog-witness describes it; it checks
// proofs with another implementation than ours.
type witnessServer struct {
	vkey   string
	signer note.Signer
	log    note.Verifier

	mu    sync.Mutex
	size  int64
	root  []byte
	cheat func(w http.ResponseWriter) bool // answers instead, if it returns true
}

func newWitness(t *testing.T, s *seal.Service, name string) *witnessServer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	w := &witnessServer{}
	w.signer, w.vkey = tlog.NewWitness(name, ed25519.NewKeyFromSeed(seed[:]), time.Now)
	if s != nil {
		w.trust(t, s)
	}
	return w
}

func (s *witnessServer) trust(t *testing.T, log *seal.Service) {
	t.Helper()
	k, err := log.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.log, err = note.NewVerifier(k.Key); err != nil {
		t.Fatal(err)
	}
}

func (s *witnessServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cheat != nil && s.cheat(w) {
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/w/add-checkpoint" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(r.Body)
	head, checkpoint, ok := strings.Cut(string(body), "\n\n")
	if err != nil || !ok {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	lines := strings.Split(head, "\n")
	old, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "old "), 10, 64)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	n, err := note.Open([]byte(checkpoint), note.VerifierList(s.log))
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if old != s.size {
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintln(w, s.size)
		return
	}
	c, err := tlog.ParseCheckpoint(n.Text)
	if err != nil || !s.consistent(lines[1:], c) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	s.size, s.root = c.Size, c.Root[:]
	signed, err := note.Sign(&note.Note{Text: n.Text}, s.signer)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	io.WriteString(w, strings.TrimPrefix(string(signed), n.Text+"\n"))
}

func (s *witnessServer) consistent(lines []string, c tlog.Checkpoint) bool {
	if s.size == 0 {
		return len(lines) == 0
	}
	var p [][]byte
	for _, l := range lines {
		b, err := base64.StdEncoding.DecodeString(l)
		if err != nil {
			return false
		}
		p = append(p, b)
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(s.size), uint64(c.Size), p, s.root, c.Root[:]) == nil
}

func TestWitnessesCosign(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := openLog(t, db)
		w := newWitness(t, nil, "witness.example/w1")
		srv := httptest.NewServer(w)
		defer srv.Close()
		o := options(t)
		o.Witnesses = []seal.Witness{{URL: srv.URL + "/w/", Key: w.vkey}}
		s := open(t, db, l, o)
		w.trust(t, s)
		done := int64(-1)
		var id string
		for i := range 4 {
			id = record(t, l, 1+i*100)[0]
			drain(t, s)
			if i == 2 {
				w.mu.Lock() // as if it had seen one that we do not remember: it answers 409
				w.size, w.root = 0, nil
				w.mu.Unlock()
			}
			size, err := s.Cosign(t.Context(), "witness.example/w1", done)
			if err != nil || size <= done {
				t.Fatalf("%d: %d, %v", i, size, err)
			}
			done = size
		}
		record(t, l, 1)
		drain(t, s) // not cosigned: the proof uses the one that is
		f, err := s.Prove(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		tr, _ := trust(t, s)
		tr.Witnesses, tr.Quorum = []string{w.vkey}, 1
		shown, err := tlog.VerifyProof(b, tr)
		if err != nil || len(shown.Cosignatures) != 1 || time.Since(shown.Cosignatures[0].Time) > time.Hour {
			t.Errorf("%+v, %v", shown, err)
		}
		if cs, err := s.Checkpoints(t.Context(), 0, 2); err != nil || len(cs) != 2 || len(cs[0].Cosignatures) != 0 || len(cs[1].Cosignatures) != 1 {
			t.Errorf("%+v, %v", cs, err)
		}
	})
}

func TestABadWitnessOnlyShows(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	l := openLog(t, db)
	w, other := newWitness(t, nil, "witness.example/w1"), newWitness(t, nil, "witness.example/w1-forged")
	srv := httptest.NewServer(w)
	defer srv.Close()
	o := options(t)
	o.Witnesses = []seal.Witness{{URL: srv.URL + "/w", Key: w.vkey}}
	s := open(t, db, l, o)
	w.trust(t, s)
	record(t, l, 10)
	drain(t, s)
	hang := make(chan struct{})
	answers := map[string]struct {
		cheat func(http.ResponseWriter) bool
		says  string
	}{
		"another key": {func(rw http.ResponseWriter) bool {
			signed, _ := note.Sign(&note.Note{Text: "x\n"}, other.signer)
			rw.Write(signed)
			return true
		}, "without a valid cosignature"},
		"another text": {func(rw http.ResponseWriter) bool {
			signed, _ := note.Sign(&note.Note{Text: "example.com/log\n1\nAAAA\n"}, w.signer)
			_, sigs, _ := strings.Cut(string(signed), "\n\n")
			io.WriteString(rw, sigs)
			return true
		}, "without a valid cosignature"},
		"nothing":    {func(rw http.ResponseWriter) bool { return true }, "without a valid cosignature"},
		"much":       {func(rw http.ResponseWriter) bool { io.WriteString(rw, strings.Repeat("— x\n", 1<<20)); return true }, ""},
		"broken":     {func(rw http.ResponseWriter) bool { rw.WriteHeader(500); return true }, "answered 500"},
		"larger":     {func(rw http.ResponseWriter) bool { rw.WriteHeader(409); fmt.Fprintln(rw, 1<<40); return true }, "may have lost some"},
		"no size":    {func(rw http.ResponseWriter) bool { rw.WriteHeader(409); fmt.Fprintln(rw, "-1"); return true }, "without a size"},
		"always 409": {func(rw http.ResponseWriter) bool { rw.WriteHeader(409); fmt.Fprintln(rw, 3); return true }, "changes its mind"},
		"redirecting": {func(rw http.ResponseWriter) bool {
			rw.Header().Set("Location", "http://127.0.0.1:1/")
			rw.WriteHeader(307)
			return true
		}, "answered 307"},
		"hung up": {func(rw http.ResponseWriter) bool { panic(http.ErrAbortHandler) }, "does not answer"},
	}
	for name, a := range answers {
		w.mu.Lock()
		w.cheat = a.cheat
		w.mu.Unlock()
		if _, err := s.Cosign(t.Context(), "witness.example/w1", -1); err == nil || !strings.Contains(err.Error(), a.says) {
			t.Errorf("%s: %v", name, err)
		}
		if st, err := s.Status(t.Context()); err != nil || st.Witnesses[0].Error == "" {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
	w.mu.Lock()
	w.cheat = func(http.ResponseWriter) bool { <-hang; return true }
	w.mu.Unlock()
	defer close(hang)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := record(t, l, 1)[0]
	for { // sealed while the witness hangs
		wake := s.Sealed()
		if _, err := s.Prove(t.Context(), id); err == nil {
			break
		}
		select {
		case <-wake:
		case <-time.After(5 * time.Second):
			t.Fatal("a hanging witness stops the sealing")
		}
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestWitnessesAreChecked(t *testing.T) {
	db := storagetest.Open(t, storagetest.SQLite(t))
	l := openLog(t, db)
	for _, w := range []seal.Witness{{URL: "ftp://x", Key: "k"}, {URL: "https://u:p@x/", Key: "k"}, {URL: "https://x/", Key: "k"}, {}} {
		o := options(t)
		o.Witnesses = []seal.Witness{w}
		if _, err := seal.New(t.Context(), db, l, o); err == nil || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%+v: %v", w, err)
		}
	}
}
