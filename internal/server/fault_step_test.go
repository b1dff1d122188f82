package server_test

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage/storagetest"
)

// A deadPlace is a moment between two steps of the way of an event: intent,
// forward, outcome, seal, checkpoint, index.
type deadPlace struct {
	name     string
	postgres stop   // on the wire
	sqlite   string // TABLE OPERATION CONDITION, see pointEnv
	when     string // of sqlite: within, committed
	upstream string // or a step of the upstream
	file     bool   // or when the checkpoint's file is being replaced
}

// deadPlaces are the moments between all steps. Of a transaction there are two
// that differ: it was not committed, or it was and nobody knows.
var deadPlaces = []deadPlace{
	{name: "before the intent", postgres: stop{sql: "INSERT INTO events", args: "call.intent"}, sqlite: "events INSERT NEW.type = 'call.intent'", when: "within"},
	{name: "intent durable, not known", postgres: stop{sql: "INSERT INTO events", args: "call.intent", after: true}, sqlite: "events INSERT NEW.type = 'call.intent'", when: "committed"},
	{name: "forwarding", upstream: "connected"},
	{name: "forwarded", upstream: "received"},
	{name: "answered", upstream: "answered"},
	{name: "before the outcome", postgres: stop{sql: "INSERT INTO events", args: "call.outcome"}, sqlite: "events INSERT NEW.type = 'call.outcome'", when: "within"},
	{name: "outcome durable, not known", postgres: stop{sql: "INSERT INTO events", args: "call.outcome", after: true}, sqlite: "events INSERT NEW.type = 'call.outcome'", when: "committed"},
	{name: "head of the tree moved", postgres: stop{sql: "UPDATE seal_head SET size", after: true}, sqlite: "seal_head UPDATE NEW.size > OLD.size", when: "within"},
	{name: "tiles written", postgres: stop{sql: "INSERT INTO tiles", after: true}, sqlite: "tiles INSERT", when: "within"},
	{name: "checkpoint written, not committed", postgres: stop{sql: "INSERT INTO checkpoints", commit: true}, sqlite: "checkpoints INSERT", when: "within"},
	{name: "checkpoint committed, not known", postgres: stop{sql: "INSERT INTO checkpoints", commit: true, after: true}, sqlite: "checkpoints INSERT", when: "committed"},
	{name: "checkpoint kept outside", file: true},
	{name: "before a change", postgres: stop{sql: "INSERT INTO users", commit: true}, sqlite: "users INSERT", when: "within"},
	{name: "change durable, not known", postgres: stop{sql: "INSERT INTO users", commit: true, after: true}, sqlite: "users INSERT", when: "committed"},
	{name: "before the index", postgres: stop{sql: "INSERT INTO search_events", commit: true}, sqlite: "search_events INSERT", when: "within"},
	{name: "index committed, not known", postgres: stop{sql: "INSERT INTO search_events", commit: true, after: true}, sqlite: "search_events INSERT", when: "committed"},
}

// Whatever the step at which the server dies, nothing was forwarded without an
// intent, nothing that was acknowledged is lost, and log, tree and index are
// whole after the next start.
func TestKillAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	rounds := 1
	if long() {
		rounds = 12
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		own := dsn
		var wire *tap
		if strings.HasPrefix(dsn, "postgres") {
			wire, dsn = newTap(t, dsn)
		}
		p := newPlant(t, t.TempDir(), dsn)
		killed := 0
		for round := range rounds {
			for _, place := range deadPlaces {
				if place.when == "committed" && wire == nil && !hasStrace(t) {
					continue
				}
				if p.dies(place, wire, 1+round%4) {
					killed++
				}
				p.again()
				p.recovers(30 * time.Second)
			}
		}
		t.Logf("%d deaths at %d places", killed, len(deadPlaces))
		p.dsn = own
		p.whole()
	})
}

// dies makes calls until the server has died at a place.
func (p *plant) dies(at deadPlace, wire *tap, n int) bool {
	p.t.Helper()
	victim := p.process
	kill := func() { _ = victim.cmd.Process.Kill() }
	ended := make(chan struct{})
	switch {
	case at.upstream != "":
		p.up.acts(at.upstream, kill)
	case at.file:
		go killAtReplace(filepath.Join(p.data, "checkpoint"), kill, ended)
	case wire != nil:
		s := at.postgres
		s.fire = kill
		wire.arm(&s)
	default:
		p.process.stop(p.t)
		var err error
		if p.process, err = launch(p.life, p.data, p.dsn, p.token, pointEnv+"="+at.sqlite+":"+strconv.Itoa(n)+":"+at.when); err != nil {
			return p.wasKilled(at) // sealing and indexing begin before the doors open
		}
		victim = p.process
	}
	stop := p.load(2)
	go func() { _ = victim.cmd.Wait(); close(ended) }()
	died := true
	select {
	case <-ended:
	case <-time.After(60 * time.Second):
		died = false
		kill()
		<-ended
		p.t.Errorf("%s: it was never reached\n%s", at.name, tailOf(victim.stderr.Bytes()))
	}
	stop()
	p.up.at.Store(nil)
	return died && p.wasKilled(at)
}

func (p *plant) wasKilled(at deadPlace) bool {
	p.t.Helper()
	code := p.cmd.ProcessState.ExitCode()
	if code >= 0 {
		p.t.Errorf("%s: the server ended by itself with %d\n%s", at.name, code, tailOf(p.stderr.Bytes()))
	}
	return code < 0
}

// acts runs fn once, at the next time the upstream reaches a step.
func (s *stage) acts(step string, fn func()) {
	act := func(name string) {
		if name == step && s.at.Swap(nil) != nil {
			fn()
		}
	}
	s.at.Store(&act)
}

// killAtReplace kills when a new checkpoint is being put in the place of the
// old one: its temporary file is there, or the file has just changed.
func killAtReplace(path string, kill func(), ended chan struct{}) {
	for {
		select {
		case <-ended:
			return
		default:
		}
		if m, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".checkpoint-*")); err == nil && len(m) > 0 {
			kill()
			return
		}
	}
}

// hasStrace reports whether system calls can be made to kill or fail.
func hasStrace(t *testing.T) bool {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Log("strace is not installed (apt-get install strace), so nothing dies or fails at a system call here")
		return false
	}
	return true
}
