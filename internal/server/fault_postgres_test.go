package server_test

import (
	"encoding/json/v2"
	"errors"
	"net/http"
	"syscall"

	"testing"
	"time"
)

// Whatever happens to PostgreSQL, calls are refused while it cannot be written,
// with an error that says so, and let through again by themselves.
func TestFaultPostgres(t *testing.T) {
	pg := ownPostgres(t)
	away := 4 * time.Second
	if long() {
		away = 30 * time.Second
	}
	wire, dsn := newTap(t, pg.database("faults"))
	p := newPlant(t, t.TempDir(), dsn)
	for _, f := range []struct {
		name  string
		fault func()
		mend  func()
	}{
		{"stopped", func() { pg.end(syscall.SIGINT) }, pg.start},
		{"killed", pg.kill, pg.start},
		{"unreachable", func() { wire.cut(false) }, wire.mend},
		{"unreachable, connections lost", func() { wire.cut(true) }, wire.mend},
	} {
		t.Run(f.name, func(t *testing.T) {
			p.t = t
			p.mustCall()
			stop := p.load(4)
			f.fault()
			p.refused(20 * time.Second)
			if status, body := p.ready(); status != http.StatusServiceUnavailable {
				t.Errorf("it says that it is ready: %d %s", status, body)
			}
			time.Sleep(away) // the length of the fault is what is tested
			f.mend()
			p.recovers(40 * time.Second)
			stop()
		})
	}
	t.Run("restarted under load", func(t *testing.T) {
		p.t = t
		stop := p.load(4)
		for range 3 {
			pg.restart()
			p.recovers(40 * time.Second)
		}
		stop()
	})
	t.Run("connections exhausted", func(t *testing.T) {
		p.t = t
		stop := p.load(4)
		release := pg.hog("faults")
		p.refused(20 * time.Second)
		if status, body := p.ready(); status != http.StatusServiceUnavailable {
			t.Errorf("it says that it is ready: %d %s", status, body)
		}
		release()
		p.recovers(40 * time.Second)
		stop()
	})
	p.t = t
	p.whole()
}

// sealing is what a replica says of itself.
type sealing struct {
	Size   int64  `json:"size"`
	Behind int64  `json:"behind"`
	Leader bool   `json:"leader"`
	Error  string `json:"error"`
}

func (p *plant) sealing() sealing {
	p.t.Helper()
	var s sealing
	b, _, err := p.get("/api/v1/log/status")
	if err := errors.Join(err, json.Unmarshal(b, &s)); err != nil {
		p.t.Fatalf("%v %s", err, b)
	}
	return s
}

// When the replica that seals is killed, another seals what comes in less than
// five seconds later. The killed one comes back and follows.
func TestKillTheSealingLeader(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	rounds := 2
	if long() {
		rounds = 20
	}
	pg := ownPostgres(t)
	dsn := pg.database("leader")
	a := newPlant(t, t.TempDir(), dsn)
	b := &plant{t: t, life: t, data: t.TempDir(), dsn: dsn, up: a.up, key: a.key, vkey: a.vkey, kept: a.kept, head: a.head}
	copyTree(t, a.data, b.data, func(name string) bool { return name != "key" }) // replicas share the key
	b.process = start(t, b.data, dsn, a.token)
	b.number.Store(1 << 32) // no call looks like one of the other's
	var slowest time.Duration
	for range rounds {
		leader, other := a, b
		a.eventually(20*time.Second, "nobody seals", func() bool {
			a.mustCall()
			b.mustCall()
			sa, sb := a.sealing(), b.sealing()
			if sa.Leader && sb.Leader {
				t.Error("two lead") // one of them would be fenced; it would not say so for long
			}
			if sb.Leader {
				leader, other = b, a
			}
			return sa.Leader != sb.Leader
		})
		size := other.sealing().Size
		leader.process.kill()
		killed := time.Now()
		other.mustCall()
		other.eventually(20*time.Second, "nobody takes over", func() bool { return other.sealing().Size > size })
		slowest = max(slowest, time.Since(killed))
		leader.again()
	}
	t.Logf("slowest takeover %v", slowest)
	if slowest > 5*time.Second {
		t.Errorf("a takeover took %v", slowest)
	}
	b.process.stop(t)
	a.answered.Add(b.answered.Load())
	a.whole()
}
