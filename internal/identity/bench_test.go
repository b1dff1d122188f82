package identity_test

import (
	"fmt"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// BenchmarkAuthenticate: a key and a run token among a thousand agents.
func BenchmarkAuthenticate(b *testing.B) {
	w := settle(b, storagetest.Open(b, storagetest.SQLite(b)))
	w.must(w.log.Change(ctx, func(tx *audit.Tx) error {
		for i := range 1000 {
			name := fmt.Sprintf("agent-%d", i)
			if _, err := w.PutAgentTx(ctx, tx, w.admin, "", identity.Agent{Name: name, Owner: "ada", Stage: identity.Staging}); err != nil {
				return err
			}
			if _, _, err := w.IssueKeyTx(ctx, tx, w.admin, "", name, 0); err != nil {
				return err
			}
		}
		return nil
	}))
	_, key := w.key(0)
	_, run := w.run(0)
	w.must(w.watch.Start(ctx))
	b.Cleanup(w.watch.Stop)
	for what, credential := range map[string]string{"key": key, "run": run} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c, err := w.Authenticate(ctx, credential)
				if err != nil {
					b.Fatal(err)
				}
				w.Used(c, w.clock.now())
			}
		})
	}
}
