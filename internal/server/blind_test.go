package server_test

import (
	"testing"
	"time"
)

// Invariant 7: a replica that cannot see the store refuses new calls, and when
// it has been blind for too long it cuts what is in flight: somebody may have
// been stopped meanwhile. It can call again by itself when it sees.
func TestABlindReplicaRefusesAndCuts(t *testing.T) {
	pg := ownPostgres(t)
	wire, dsn := newTap(t, pg.database("blind"))
	upstream := serveModel(t, "blind-model-key-0123456789")
	p := start(t, t.TempDir(), dsn, "")
	key := p.company(t)
	p.model(t, "openai", "openai", upstream, "blind-model-key-0123456789")
	for _, lost := range []bool{false, true} {
		t.Run(map[bool]string{false: "nothing comes through", true: "connections are lost"}[lost], func(t *testing.T) {
			p.eventuallyAllowed(t, key)
			lines := p.endless(t, key)
			if !lines.Scan() {
				t.Fatal("the stream did not begin")
			}
			ended := drained(lines)
			wire.cut(lost)
			blind := time.Now()
			refused := false
			for !refused && time.Since(blind) < 30*time.Second {
				status, _ := p.ask(t, key)
				refused = status == 503
			}
			if !refused {
				t.Error("new calls are let through")
			}
			t.Logf("refuses after %s", time.Since(blind))
			again := time.Now()
			if status, _ := p.ask(t, key); status != 503 || time.Since(again) > 3*time.Second {
				t.Errorf("the next call: %d after %s", status, time.Since(again))
			}
			select {
			case <-ended:
				t.Logf("cut after %s", time.Since(blind))
			case <-time.After(40 * time.Second): // the promise is ten seconds, on a machine that is not busy
				t.Error("the stream goes on, though nobody can tell whether it may")
			}
			wire.mend()
			p.eventuallyAllowed(t, key)
		})
	}
}
