package connections_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestToolTypes(t *testing.T) {
	r := open(t, storagetest.Open(t, storagetest.SQLite(t)))
	r.ledger(def("pay", "Pay"))
	found := map[string]connections.ToolType{}
	for _, tt := range r.ToolTypes() {
		found[tt.Connection+"/"+tt.Tool] = tt
	}
	pay := found["ledger/pay"]
	if pay.Kind != "mcp" || pay.Effect != "irreversible" || !bytes.Contains(pay.InputSchema, []byte(`"integer"`)) {
		t.Errorf("%+v", pay)
	}
	if _, ok := found["ledger/mcp:resources/read"]; !ok {
		t.Error("no protocol tools")
	}
	// What nobody accepted has no part in any decision.
	if _, err := r.Observe(ctx, "ledger", []connections.Definition{def("pay", "Pay"), def("drop", "Drop")}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range r.ToolTypes() {
		if tt.Tool == "drop" {
			t.Error("policy sees a tool nobody accepted")
		}
	}
}

func TestFirstDiscoveryHappensOnce(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		a := open(t, db)
		b := replica(t, db, a.log)
		if _, err := a.Register(ctx, pat, "", stdio(nil)); err != nil {
			t.Fatal(err)
		}
		b.poll()
		var wg sync.WaitGroup
		for _, r := range []*room{a, b} {
			r.upstream.says(def("a", "A"), def("b", "B"))
			wg.Go(func() {
				if _, err := r.Refresh(ctx, pat, "", "ledger"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n, m := len(a.events("connection.discovered")), len(a.events("tool.pinned")); n != 1 || m != 2 {
			t.Errorf("discovered %d times, %d tools pinned", n, m)
		}
	})
}

func BenchmarkObserveUnchanged(b *testing.B) {
	// 100 tools of about 1 KB, as a large server lists them.
	r := open(b, storagetest.Open(b, storagetest.SQLite(b)))
	defs := make([]connections.Definition, 100)
	for i := range defs {
		defs[i] = def(fmt.Sprint("tool", i), strings.Repeat("Does something useful. ", 40))
	}
	r.ledger(defs...)
	for b.Loop() {
		if _, err := r.Observe(ctx, "ledger", defs); err != nil {
			b.Fatal(err)
		}
	}
}
