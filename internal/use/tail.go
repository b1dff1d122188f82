package use

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"maps"
	"slices"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/storage"
)

// tail is what this replica has gathered since what is written.
type tail struct {
	state    state        // what it continues
	at       audit.Cursor // how far it has read
	erasures int64
	tallies  map[key]*tally
	pairs    map[pair]*watched
	since    int64 // the first event's time, in microseconds
	latest   int64 // the newest counted call's
	read     int64 // events
}

// watched is a pair's arguments that are looked at.
type watched struct {
	args    []argument
	version string // of the policies that were asked for them
}

// argument is one that is looked at from a time on.
type argument struct {
	path, kind string
	since      int64
}

func newTail(st state, erasures int64, args map[pair][]argument) *tail {
	t := &tail{state: st, at: maps.Clone(st.positions), erasures: erasures, tallies: map[key]*tally{}, pairs: map[pair]*watched{}, since: st.since, latest: st.latest}
	for p, a := range args {
		t.pairs[p] = &watched{args: a}
	}
	return t
}

// follows reports whether what is written is still what the tail continues.
func (t *tail) follows(st state, erasures int64) bool {
	return t != nil && t.erasures == erasures && t.state.epoch == st.epoch && maps.Equal(t.state.positions, st.positions)
}

// take counts one record.
func (t *tail) take(rec *audit.Record) {
	ev := &rec.Event
	t.at[rec.Lane] = rec.SN
	t.read++
	at := storage.Micros(ev.Time)
	if t.since == 0 || at < t.since {
		t.since = at
	}
	if !counts(ev) {
		return
	}
	t.latest = max(t.latest, at)
	p := pairOf(ev)
	values := t.values(rec, at)
	for _, rule := range rules(ev) {
		k := key{p, rule, ev.Stage, dayOf(at)}
		one := t.tallies[k]
		if one == nil {
			one = &tally{}
			t.tallies[k] = one
		}
		one.add(ev)
		if rule != "" && !isGrant(rule) {
			continue
		}
		for _, v := range values {
			one.at(v.path, v.kind).add(v.value, !v.there)
		}
	}
}

// value is what an argument was in a call.
type value struct {
	argument
	value jsontext.Value
	there bool
}

// values returns what is looked at of an allowed call's arguments.
func (t *tail) values(rec *audit.Record, at int64) []value {
	w := t.pairs[pairOf(&rec.Event)]
	if len(w.args) == 0 || rec.Event.Type != audit.CallIntent {
		return nil
	}
	args, readable := arguments(rec)
	if !readable {
		return nil
	}
	fields := fieldsOf(args)
	var out []value
	for _, a := range w.args {
		if at >= a.since {
			v, there := valueAt(fields, a.path)
			out = append(out, value{a, v, there})
		}
	}
	return out
}

func pairOf(ev *audit.Event) pair { return pair{ev.Agent, ev.Connection, ev.Tool} }

// argumentsPayload is the name of the payload that holds what policy read.
const argumentsPayload = "arguments"

// arguments returns what policy read of a call, as far as it is recorded whole.
func arguments(rec *audit.Record) (jsontext.Value, bool) {
	for _, c := range rec.Event.Payloads {
		if c.Name == argumentsPayload {
			body := jsontext.Value(rec.Payloads[argumentsPayload])
			return body, c.Whole == "" && body.IsValid() && body.Kind() == '{'
		}
	}
	return jsontext.Value(`{}`), true // it had none
}

// step reads some records and returns how many. s.mu must be held; afterwards
// there is a tail, unless it fails.
func (s *Service) step(ctx context.Context) (int, error) {
	for {
		n, err := s.read(ctx)
		if !errors.Is(err, errMoved) || ctx.Err() != nil {
			return n, err
		}
		s.tail = nil
	}
}

func (s *Service) read(ctx context.Context) (int, error) {
	erasures, err := s.log.Erasures(ctx) // before anything is read of payloads
	if err != nil {
		return 0, err
	}
	st, err := s.store.state(ctx)
	if err != nil {
		return 0, err
	}
	if !s.tail.follows(st, erasures) {
		args, err := s.store.arguments(ctx)
		if err != nil {
			return 0, err
		}
		s.tail = newTail(st, erasures, args)
	}
	var recs []audit.Record
	n, err := s.log.Next(ctx, s.tail.at, perLane, false, func(r audit.Record) error {
		recs = append(recs, r)
		return nil
	})
	if err != nil {
		return 0, err
	}
	if err := s.count(ctx, recs); err != nil {
		s.tail = nil // half of it may be known
		return 0, err
	}
	return n, nil
}

func (s *Service) count(ctx context.Context, recs []audit.Record) error {
	taken, err := s.taken(ctx, recs)
	if err != nil {
		return err
	}
	if err := s.readArguments(ctx, recs, taken); err != nil {
		return err
	}
	for i := range recs {
		s.tail.take(&recs[i])
		if err := s.offer(ctx, taken, &recs[i]); err != nil {
			return err
		}
	}
	return nil
}

// readArguments finds out what of the records' arguments is looked at and loads
// those, and those of refusals that may be because of what was taken.
func (s *Service) readArguments(ctx context.Context, recs []audit.Record, taken []Proposal) error {
	version := s.o.Policy.Version()
	var of []int
	for i := range recs {
		ev := &recs[i].Event
		if !counts(ev) {
			continue
		}
		p := pairOf(ev)
		w := s.tail.pairs[p]
		if w == nil {
			w = &watched{}
			s.tail.pairs[p] = w
		}
		if w.version != version {
			if err := s.watch(ctx, p, w, ev); err != nil {
				return err
			}
			w.version = version
		}
		if len(w.args) > 0 && ev.Type == audit.CallIntent || slices.ContainsFunc(taken, func(p Proposal) bool { return p.about(ev) }) {
			of = append(of, i)
		}
	}
	some := make([]audit.Record, len(of))
	for i, at := range of {
		some[i] = recs[at]
	}
	if err := s.log.LoadPayloads(ctx, some); err != nil {
		return err
	}
	for i, at := range of {
		recs[at] = some[i]
	}
	return nil
}

// watch adds the arguments of a pair that policies name now and are not looked
// at yet. A pair that was never seen is looked at from the beginning, another
// from what was read last on: so that reading again sees the same.
func (s *Service) watch(ctx context.Context, p pair, w *watched, ev *audit.Event) error {
	who := policy.Agent{Name: p.agent, Team: ev.Team, Stage: ev.Stage, Owner: ev.Owner}
	if s.o.Agents != nil {
		if now, ok := s.o.Agents(p.agent); ok {
			who = now
		}
	}
	var more []argument
	for _, a := range s.o.Policy.Arguments(who, policy.Action{Connection: p.connection, Tool: p.tool}) {
		if !slices.ContainsFunc(w.args, func(x argument) bool { return x.path == a.Path }) {
			more = append(more, argument{path: a.Path, kind: a.Kind})
		}
	}
	more = more[:min(len(more), max(0, maxWatched-len(w.args)))]
	if len(more) == 0 {
		return nil
	}
	known, err := s.known(ctx, p)
	if err != nil {
		return err
	}
	if known {
		for i := range more {
			more[i].since = s.tail.latest + 1
		}
	}
	if s.tail.state.epoch, err = s.store.watch(ctx, s.tail.state.epoch, p, more); err != nil {
		return err
	}
	w.args = append(w.args, more...)
	return nil
}

// maxWatched bounds how many arguments of a pair are looked at.
const maxWatched = 64

// known reports whether calls of the pair were counted already.
func (s *Service) known(ctx context.Context, p pair) (bool, error) {
	for k := range s.tail.tallies {
		if k.pair == p {
			return true, nil
		}
	}
	return s.store.has(ctx, p)
}
