package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// witness is an upstream that remembers every request it got, before it
// answers: the other side of the promise.
type witness struct {
	mu   sync.Mutex
	seen map[string]int // digest of the body -> times received
}

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return // it did not arrive whole: nothing would have been done
	}
	sum := sha256.Sum256(b)
	w.mu.Lock()
	w.seen[hex.EncodeToString(sum[:])]++
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprint(rw, `{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"`)
	if f, ok := rw.(http.Flusher); ok && rand.IntN(4) == 0 {
		f.Flush() // some answers are cut in the middle
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	}
	fmt.Fprint(rw, `ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
}

func kills() int {
	if os.Getenv("COUNTERSIGN_FAULTS") == "long" {
		return 200
	}
	return 12
}

// The promise of the product, with real processes: whatever the moment at which
// the server dies, no upstream got a request whose intent is not in the log, no
// request went out twice, every intent has exactly one outcome in the end, and
// the chain verifies.
func TestKillUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		up := &witness{seen: map[string]int{}}
		upstream := httptest.NewServer(up)
		defer upstream.Close()
		data := t.TempDir()
		p := start(t, data, dsn, "")
		token := p.token
		key := p.company(t)
		p.model(t, "up", "openai", upstream.URL, "witness-secret-0123456789")
		if status, body := try(t.Context(), p.url, key, 0); status != http.StatusOK {
			t.Fatalf("the first call: %d %s", status, body)
		}

		var number, accepted atomic.Int64
		for range kills() {
			ctx, cancel := context.WithCancel(context.Background())
			var load sync.WaitGroup
			for range 8 {
				load.Go(func() {
					for ctx.Err() == nil {
						if call(ctx, p.url, key, number.Add(1)) {
							accepted.Add(1)
						}
					}
				})
			}
			time.Sleep(time.Duration(20+rand.IntN(180)) * time.Millisecond) // the moment of death is what is varied
			p.kill()
			cancel()
			load.Wait()
			p = start(t, data, dsn, token)
		}
		p.stop(t)
		t.Logf("%d calls answered, %d received upstream", accepted.Load(), len(up.seen))
		if accepted.Load() == 0 {
			t.Fatal("no call was answered: the test shows nothing")
		}
		verdict(t, data, dsn, up)
	})
}

func call(ctx context.Context, url, key string, n int64) bool {
	status, _ := try(ctx, url, key, n)
	return status == http.StatusOK
}

// try makes one call and returns its status, 0 if it broke off, and the answer.
func try(ctx context.Context, url, key string, n int64) (int, string) {
	body := fmt.Sprintf(`{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"call %d"}]}`, n)
	req, _ := http.NewRequestWithContext(ctx, "POST", url+"/llm/up/v1/chat/completions", strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// verdict compares the log with what the upstream saw, and returns what the log
// says.
func verdict(t *testing.T, data, dsn string, up *witness) book {
	t.Helper()
	ctx := context.Background()
	db := storagetest.Open(t, dsn)
	keeper, err := secrets.OpenKeeper(ctx, filepath.Join(data, "key"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: keeper})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close(ctx)
	b := settled(t, log)
	report, err := log.Verify(ctx, nil)
	if err != nil || len(report.Problems) > 0 {
		t.Fatalf("the log does not verify: %+v, %v", report, err)
	}
	for digest, times := range up.seen {
		if !b.digests[digest] {
			t.Errorf("the upstream got a request that is not in the log: %s", digest)
		}
		if times > 1 {
			t.Errorf("the upstream got a request %d times: %s", times, digest)
		}
	}
	for call, event := range b.intents {
		if b.outcomes[call] != 1 {
			t.Errorf("call %s (%s) has %d outcomes", call, event, b.outcomes[call])
		}
	}
	t.Logf("%d events verified: %d intents, %d outcomes, %d of them unknown", report.Events, len(b.intents), len(b.outcomes), b.unknown)
	return b
}

// book is what the log says of calls.
type book struct {
	intents  map[string]string // call -> event
	outcomes map[string]int
	digests  map[string]bool
	unknown  int
}

// settled reads the log until every intent has an outcome: on PostgreSQL the
// lanes of a killed server are taken over when their leases have run out.
func settled(t *testing.T, log *audit.Log) book {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		b := read(t, log)
		open := 0
		for call := range b.intents {
			if b.outcomes[call] == 0 {
				open++
			}
		}
		if open == 0 {
			return b
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d intents have no outcome", open, len(b.intents))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func read(t *testing.T, log *audit.Log) book {
	t.Helper()
	b := book{intents: map[string]string{}, outcomes: map[string]int{}, digests: map[string]bool{}}
	q := audit.Query{Types: []audit.Type{audit.CallIntent, audit.CallOutcome}, Oldest: true, Limit: 1000}
	for {
		page, err := log.List(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			if r.Event.Type == audit.CallIntent {
				b.intents[r.Event.Call] = r.Event.ID
				b.digests[r.Event.Digest] = true
				continue
			}
			b.outcomes[r.Event.Call]++
			if r.Event.Outcome.Status == audit.Unknown {
				b.unknown++
			}
		}
		if len(page) < q.Limit {
			return b
		}
		q.After = page[len(page)-1].Event.ID
	}
}
