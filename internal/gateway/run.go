package gateway

import (
	"maps"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
)

// book counts what happens in runs, on this replica. A client cannot choose its
// run: it is the one of its run token, the one that a call belongs to by what a
// model answered (place), or else one derived from who calls with which credential,
// ended by a pause. What such a credential found counts for all of them.
type book struct {
	gap time.Duration
	// open says to which run a credential without one belongs, on every replica
	// alike. It may be nil.
	open func(who identity.Caller, fresh string, now time.Time) (run string, started time.Time)

	mu    sync.Mutex
	runs  map[runKey]*run
	blind map[string]time.Time // when a call of an agent last went out while nobody asked where values come from
	swept time.Time
}

// runKey is of a credential, with the run that its token names, or of a run.
type runKey struct{ agent, credential, run string }

type run struct {
	id      string
	started time.Time
	last    time.Time
	told    time.Time        // when others were told that it goes on
	calls   int64            // before the present one
	unseen  bool             // a call of it went out while nobody asked where values come from
	found   inspection.Kinds // in its calls and in what it read
}

func newBook(gap time.Duration) *book {
	return &book{gap: gap, runs: map[runKey]*run{}, blind: map[string]time.Time{}}
}

func keyOf(who identity.Caller) runKey { return runKey{who.Agent.ID, who.Credential.ID, who.Run} }

// of returns the run that who is in at now by credential and time, counting a
// call of it.
func (r *book) of(who identity.Caller, now time.Time) run {
	key := keyOf(who)
	r.mu.Lock()
	if now.Sub(r.swept) > r.gap {
		r.sweep(now)
	}
	u := r.runs[key]
	if u != nil && (who.Run != "" || now.Sub(u.last) <= r.gap) {
		defer r.mu.Unlock()
		u.calls++
		u.last = now
		return *u
	}
	r.mu.Unlock()
	blind := u != nil && u.unseen && now.Sub(u.last) <= longest
	u = &run{id: who.Run, started: now, last: now, told: now, unseen: blind}
	if u.id == "" {
		u.id = id.At(id.Run, now)
		if r.open != nil {
			u.id, u.started = r.open(who, u.id, now)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.runs[key]; other != nil && other.id == u.id { // another call of the same moment
		other.calls++
		other.last = now
		return *other
	}
	r.runs[key] = u
	return *u
}

// goesOn reports, about once a minute, that others must be told that the run of a
// credential goes on.
func (r *book) goesOn(who identity.Caller, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.runs[keyOf(who)]
	if u == nil || who.Run != "" || now.Sub(u.told) < r.gap/15 {
		return false
	}
	u.told = now
	return true
}

// in counts a call of who in a run other than the one of its credential.
func (r *book) in(who identity.Caller, name string, now time.Time) {
	key := runKey{agent: who.Agent.ID, run: name}
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.runs[key]
	if u == nil {
		u = &run{id: name, started: now}
		if began, ok := id.Time(id.Run, name); ok && began.Before(now) {
			u.started = began
		}
		r.runs[key] = u
	} else {
		u.calls++
	}
	u.last = now
}

// unwatched says that a call of who in a run went out while nobody asked where
// values come from: what it brought is not known.
func (r *book) unwatched(who identity.Caller, name string, now time.Time) {
	r.each(who, name, func(u *run) { u.unseen = true })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blind[who.Agent.ID] = now
}

// unwatchedLately reports whether any call of the agent went out, as long ago as a run may
// last, while nobody asked where values come from.
func (r *book) unwatchedLately(who identity.Caller, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.blind[who.Agent.ID]
	return ok && now.Sub(last) <= longest
}

// longest is the longest life of a run token.
const longest = 12 * time.Hour

// saw adds what was found to the run that a call of who belongs to, and to the
// one of its credential. It reports whether any of it is new to that.
func (r *book) saw(who identity.Caller, name string, k inspection.Kinds) (fresh bool) {
	r.each(who, name, func(u *run) {
		fresh = fresh || u.found|k != u.found
		u.found |= k
	})
	return fresh
}

// each calls fn with the run of who's credential and with the named one.
func (r *book) each(who identity.Caller, name string, fn func(*run)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.runs[keyOf(who)]; u != nil {
		fn(u)
	}
	if u := r.runs[runKey{agent: who.Agent.ID, run: name}]; u != nil && who.Run == "" {
		fn(u)
	}
}

// look returns the run of a call without counting one or opening a run. If it is
// not the one of its credential, what was found in either counts.
func (r *book) look(who identity.Caller, name string, now time.Time) run {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out run
	if u := r.runs[keyOf(who)]; u != nil && (who.Run != "" || now.Sub(u.last) <= r.gap) {
		out = *u
	} else {
		out = run{id: who.Run, started: now}
	}
	if other := r.runs[runKey{agent: who.Agent.ID, run: name}]; other != nil && name != out.id {
		found, unseen := out.found, out.unseen
		out = *other
		out.found, out.unseen = out.found|found, out.unseen || unseen
	}
	return out
}

// sweep forgets runs that have been quiet long enough. The number of open runs
// is bounded by the number of live credentials, run tokens and conversations.
func (r *book) sweep(now time.Time) {
	r.swept = now
	maps.DeleteFunc(r.blind, func(_ string, last time.Time) bool { return now.Sub(last) > longest })
	for key, u := range r.runs {
		quiet := r.gap
		if key.run != "" || u.unseen {
			quiet = longest
		}
		if now.Sub(u.last) > quiet {
			delete(r.runs, key)
		}
	}
}
