package gateway

import (
	"sync"
	"time"

	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
)

// runs knows to which run a call belongs: the one its run token names, or one
// derived here from who calls with which credential, ended by a pause. A
// client cannot choose it. What is derived lives in this process only.
type runs struct {
	gap time.Duration

	mu    sync.Mutex
	open  map[runKey]*run
	swept time.Time
}

type runKey struct{ agent, credential, run string }

type run struct {
	id      string
	started time.Time
	last    time.Time
	calls   int64            // before the present one
	unseen  bool             // a call of it went out while nobody asked where values come from
	found   inspection.Kinds // in its calls and in what it read
}

func newRuns(gap time.Duration) *runs {
	return &runs{gap: gap, open: map[runKey]*run{}}
}

// of returns the run that a call of who at now belongs to, counting it.
func (r *runs) of(who identity.Caller, now time.Time) run {
	key := runKey{who.Agent.ID, who.Credential.ID, who.Run}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.swept) > r.gap {
		r.sweep(now)
	}
	u := r.open[key]
	if u == nil || (who.Run == "" && now.Sub(u.last) > r.gap) {
		u = &run{id: who.Run, started: now}
		if u.id == "" {
			u.id = id.At(id.Run, now)
		}
		r.open[key] = u
	} else {
		u.calls++
	}
	u.last = now
	return *u
}

// unwatched says that a call of who went out while nobody asked where values
// come from: what it brought is not known.
func (r *runs) unwatched(who identity.Caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.open[runKey{who.Agent.ID, who.Credential.ID, who.Run}]; u != nil {
		u.unseen = true
	}
}

// saw adds what was found to the run that a call of who belongs to.
func (r *runs) saw(who identity.Caller, k inspection.Kinds) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.open[runKey{who.Agent.ID, who.Credential.ID, who.Run}]; u != nil {
		u.found |= k
	}
}

// look returns the same without counting a call or opening a run.
func (r *runs) look(who identity.Caller, now time.Time) run {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.open[runKey{who.Agent.ID, who.Credential.ID, who.Run}]
	if u == nil || (who.Run == "" && now.Sub(u.last) > r.gap) {
		return run{id: who.Run, started: now}
	}
	return *u
}

// sweep forgets runs that have been quiet long enough. The number of open runs
// is bounded by the number of live credentials and run tokens.
func (r *runs) sweep(now time.Time) {
	r.swept = now
	for key, u := range r.open {
		quiet := r.gap
		if key.run != "" {
			quiet = 12 * time.Hour // the longest life of a run token
		}
		if now.Sub(u.last) > quiet {
			delete(r.open, key)
		}
	}
}
