package server_test

import (
	"os"
	"testing"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkStopRollback measures a rollback: from the command to the end of the
// last stream that the release bound, on three replicas.
func BenchmarkStopRollback(b *testing.B) {
	dsn := storagetest.SQLite(b)
	if os.Getenv(storagetest.Env) != "" {
		dsn = storagetest.Postgres(b)
	}
	upstream := serveModel(b, "bench-model-key-0123456789")
	all := replicas(b, dsn, 3)
	p := all[0]
	key := p.company(b)
	p.model(b, "openai", "openai", upstream, "bench-model-key-0123456789")
	c := client.New(p.url, p.token).WithReason("test")
	for range 2 {
		if _, err := c.CreateRelease(b.Context(), "worker", client.ReleaseSpec{Models: []string{"openai/test-echo", "openai/test-endless?delay=20ms"}}); err != nil {
			b.Fatal(err)
		}
	}
	promote := func(number int64) {
		if _, err := c.PromoteRelease(b.Context(), "worker", client.ReleaseAsk{Number: number}); err != nil {
			b.Fatal(err)
		}
		for _, r := range all { // what begins now is bound by it, everywhere
			r.eventually(b, "a replica does not know the release", func() bool {
				st, err := client.New(r.url, p.token).RunRelease(b.Context(), "worker", "any")
				return err == nil && st.Binds == number
			})
		}
	}
	promote(1)
	again := func() string {
		promote(2)
		return key
	}
	measureStops(b, "stop-rollback", all, again, func(string) func() {
		if _, err := c.RollBackRelease(b.Context(), "worker", 0); err != nil {
			b.Fatal(err)
		}
		return func() {}
	})
}
