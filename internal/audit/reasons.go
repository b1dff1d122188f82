package audit

import (
	"context"
	"encoding/json/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/storage"
)

// The types of events about payloads.
const (
	PayloadErased  Type = "payload.erased"  // a person had payloads erased
	PayloadExpired Type = "payload.expired" // payloads were deleted because they were old
)

// erasedDetail is the detail of PayloadErased. The event's agent or run says
// whose bodies are gone.
type erasedDetail struct {
	Keys     []string `json:"keys,omitzero"` // identifiers of destroyed keys, hex
	Payloads int64    `json:"payloads"`      // made unreadable
}

// expiredDetail is the detail of PayloadExpired.
type expiredDetail struct {
	Days     int64  `json:"days"`
	From     string `json:"from"` // the first event that lost payloads
	Payloads int64  `json:"payloads"`
	To       string `json:"to"` // the last event
}

// erasureReasons is what the log says about payloads that are gone, so that
// Verify can tell an erasure from a theft.
type erasureReasons struct {
	log          *Log
	at           int64 // how far lane 0, which holds these events, was read
	keys         map[int64]bool
	agents, runs map[string]bool
	expired      []expiredSpan
	sorted       bool
}

type expiredSpan struct{ from, to string }

func newErasureReasons(l *Log) *erasureReasons {
	return &erasureReasons{log: l, keys: map[int64]bool{}, agents: map[string]bool{}, runs: map[string]bool{}}
}

// learn takes note of an event that says why payloads are gone.
func (w *erasureReasons) learn(ev *Event) {
	switch ev.Type {
	case PayloadErased:
		var d erasedDetail
		if json.Unmarshal(ev.Detail, &d) != nil {
			return // it explains nothing
		}
		for _, k := range d.Keys {
			if id, err := strconv.ParseInt(k, 16, 64); err == nil {
				w.keys[id] = true
			}
		}
		if ev.Agent != "" {
			w.agents[ev.Agent] = true
		}
		if ev.Run != "" {
			w.runs[ev.Run] = true
		}
	case PayloadExpired:
		var d expiredDetail
		if json.Unmarshal(ev.Detail, &d) == nil {
			w.expired, w.sorted = append(w.expired, expiredSpan{d.From, d.To}), false
		}
	}
}

// explain reports whether the log says why a payload of ev is gone.
func (w *erasureReasons) explain(ctx context.Context, ev *Event, key int64) (bool, error) {
	if w.known(ev, key) {
		return true, nil
	}
	if err := w.read(ctx); err != nil {
		return false, err
	}
	return w.known(ev, key), nil
}

func (w *erasureReasons) known(ev *Event, key int64) bool {
	if w.keys[key] || (ev.Agent != "" && w.agents[ev.Agent]) || (ev.Run != "" && w.runs[ev.Run]) {
		return true
	}
	if !w.sorted {
		w.merge()
	}
	_, found := slices.BinarySearchFunc(w.expired, ev.ID, func(s expiredSpan, id string) int {
		switch {
		case s.to < id:
			return -1
		case s.from > id:
			return 1
		}
		return 0
	})
	return found
}

// merge sorts the spans and joins those that overlap.
func (w *erasureReasons) merge() {
	slices.SortFunc(w.expired, func(a, b expiredSpan) int { return strings.Compare(a.from, b.from) })
	out := w.expired[:0]
	for _, s := range w.expired {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	w.expired, w.sorted = out, true
}

// read learns from the changes not read yet. They are verified where they stand.
func (w *erasureReasons) read(ctx context.Context) error {
	rows, err := w.log.db.Query(ctx, `SELECT sn, record FROM events WHERE lane = $1 AND sn > $2 AND type IN ($3, $4) ORDER BY sn`,
		changeLane, w.at, string(PayloadErased), string(PayloadExpired))
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		var record []byte
		if err := rows.Scan(&w.at, &record); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		if ev, err := DecodeRecord(record); err == nil {
			w.learn(&ev)
		}
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	return nil
}
