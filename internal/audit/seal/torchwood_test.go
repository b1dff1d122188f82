package seal_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// signedIn sends a user's token with each request: entry bundles are not public.
type signedIn struct{}

func (signedIn) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer x")
	return http.DefaultTransport.RoundTrip(r)
}

// An implementation that is not ours, filippo.io/torchwood, reads a live log
// over HTTP, verifies its checkpoint under a policy of the log's key and a
// witness that signs with torchwood too, every entry with its proof, and the
// proofs that we hand out.
func TestTorchwoodVerifiesALiveLog(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		l := openLog(t, db)
		seed := sha256.Sum256([]byte("torchwood"))
		cosigner, err := torchwood.NewCosignatureSigner("witness.example/torchwood", ed25519.NewKeyFromSeed(seed[:]))
		if err != nil {
			t.Fatal(err)
		}
		w := &witnessServer{vkey: cosigner.Verifier().String(), signer: cosigner}
		witness := httptest.NewServer(w)
		defer witness.Close()
		o := options(t)
		o.Witnesses = []seal.Witness{{URL: witness.URL + "/w/", Key: w.vkey}}
		s := open(t, db, l, o)
		w.trust(t, s)
		record(t, l, 400)
		drain(t, s)
		if _, err := s.Cosign(t.Context(), "witness.example/torchwood", -1); err != nil {
			t.Fatal(err)
		}
		ids := record(t, l, 300) // grows over a tile's edge
		drain(t, s)
		if _, err := s.Cosign(t.Context(), "witness.example/torchwood", 400); err != nil {
			t.Fatal(err)
		}
		log := httptest.NewServer(s.Handler(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer x" }))
		defer log.Close()
		policy := policyOf(t, s, cosigner)
		for _, id := range ids[:20] {
			checkProof(t, s, policy, id)
		}
		readAllEntries(t, s, policy, log.URL+"/log/")
	})
}

// policyOf demands the log's name and key and the witness.
func policyOf(t *testing.T, s *seal.Service, witness *torchwood.CosignatureSigner) torchwood.Policy {
	t.Helper()
	k, err := s.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, err := torchwood.NewLogVerifier(k.Key)
	if err != nil {
		t.Fatal(err)
	}
	return torchwood.ThresholdPolicy(3, torchwood.OriginPolicy(k.Origin), torchwood.SingleVerifierPolicy(key), torchwood.SingleVerifierPolicy(witness.Verifier()))
}

func checkProof(t *testing.T, s *seal.Service, policy torchwood.Policy, id string) {
	t.Helper()
	f, err := s.Prove(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := torchwood.VerifyProof(policy, xtlog.RecordHash([]byte(f.Record)), []byte(f.Proof)); err != nil {
		t.Errorf("torchwood refuses our proof of %s: %v", id, err)
	}
	if err := torchwood.VerifyProof(policy, xtlog.RecordHash([]byte(f.Record+" ")), []byte(f.Proof)); err == nil {
		t.Error("torchwood accepts another record")
	}
}

func readAllEntries(t *testing.T, s *seal.Service, policy torchwood.Policy, url string) {
	t.Helper()
	var cosigned []byte
	cs, err := s.Checkpoints(t.Context(), 0, 1)
	if err != nil || len(cs) != 1 || len(cs[0].Cosignatures) != 1 {
		t.Fatalf("%+v, %v", cs, err)
	}
	cosigned = []byte(cs[0].Note)
	if !cosignedNote(cosigned) {
		cosigned = append(cosigned, cs[0].Cosignatures[0]...)
	}
	c, _, err := torchwood.VerifyCheckpoint(cosigned, policy)
	if err != nil {
		t.Fatalf("torchwood refuses our checkpoint: %v\n%s", err, cosigned)
	}
	fetcher, err := torchwood.NewTileFetcher(url, torchwood.WithHTTPClient(&http.Client{Transport: signedIn{}}))
	if err != nil {
		t.Fatal(err)
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for i, entry := range client.AllEntries(t.Context(), c.Tree, 0) {
		if _, err := audit.DecodeRecord(entry); err != nil || i != n {
			t.Fatalf("entry %d, the %d.: %v", i, n, err)
		}
		n++
	}
	if err := client.Err(); err != nil || n != c.N {
		t.Errorf("torchwood read %d of %d entries: %v", n, c.N, err)
	}
	for _, i := range []int64{0, 255, 256, c.N - 1} {
		entry, proof, err := client.Entry(t.Context(), c.Tree, i)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.VerifyInclusion(i, c.N, tlog.LeafHash(entry), ours(proof), tlog.Hash(c.Hash)); err != nil {
			t.Errorf("we refuse torchwood's proof of entry %d: %v", i, err)
		}
	}
}

// cosignedNote reports whether a checkpoint has more than the log's signature.
func cosignedNote(b []byte) bool {
	_, err := note.Open(b, note.VerifierList())
	unverified, ok := err.(*note.UnverifiedNoteError)
	return ok && len(unverified.Note.UnverifiedSigs) > 1
}

func ours(p xtlog.RecordProof) []tlog.Hash {
	out := make([]tlog.Hash, len(p))
	for i, h := range p {
		out[i] = tlog.Hash(h)
	}
	return out
}
