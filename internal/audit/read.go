package audit

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// Record is an event as it stands in the log.
type Record struct {
	Event    Event
	Lane, SN int64
	Raw      []byte            // the exact bytes that are hashed
	Chain    []byte            // the lane's chain after this record
	Payloads map[string][]byte // bodies by name, for readers that ask for them; one that was erased, or never kept, is missing
	Damaged  []string          // names of payloads that are there but are not what was written
}

// Query selects events. Empty fields select everything. Run and Call are found
// by index; by the other fields the log is walked in time order.
type Query struct {
	Run, Call, Agent string
	Types            []Type
	Since, Until     time.Time // Since is included, Until is not
	After            string    // the last event's identifier on the page before
	Oldest           bool      // oldest first rather than newest first
	Limit            int       // 0 means 100; at most 1,000
	Payloads         bool      // load the payloads too
}

// maxPage is the most that List returns at once.
const maxPage = 1000

const recordColumns = `lane, sn, chain, record`

// Get returns an event and its payloads, ErrNotFound if there is none.
func (l *Log) Get(ctx context.Context, event string) (Record, error) {
	rows, err := l.db.Query(ctx, `SELECT `+recordColumns+` FROM events WHERE id = $1`, clean(event))
	if err != nil {
		return Record{}, storage.ErrUnavailable.With(err)
	}
	recs, err := scanRecords(rows)
	if err != nil {
		return Record{}, err
	}
	if len(recs) == 0 {
		return Record{}, ErrNotFound
	}
	return recs[0], l.LoadPayloads(ctx, recs)
}

// GetMany returns the events with these identifiers, in the order given and
// without payloads; those that are not there are left out. At most 1,000.
func (l *Log) GetMany(ctx context.Context, events []string) ([]Record, error) {
	events = events[:min(len(events), maxPage)]
	if len(events) == 0 {
		return nil, nil
	}
	marks, args, place := make([]string, len(events)), make([]any, len(events)), map[string]int{}
	for i, ev := range events {
		marks[i], args[i], place[ev] = fmt.Sprintf("$%d", i+1), clean(ev), i
	}
	rows, err := l.db.Query(ctx, `SELECT `+recordColumns+` FROM events WHERE id IN (`+strings.Join(marks, ", ")+`)`, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	recs, err := scanRecords(rows)
	slices.SortFunc(recs, func(a, b Record) int { return place[a.Event.ID] - place[b.Event.ID] })
	return recs, err
}

// Changed returns a channel that is closed when this process records something.
func (l *Log) Changed() <-chan struct{} { return l.wake.wait() }

// List returns the events that q selects, in the order of their identifiers:
// time, and within a microsecond any order.
func (l *Log) List(ctx context.Context, q Query) ([]Record, error) {
	where, args := q.where()
	order, limit := "DESC", q.Limit
	if q.Oldest {
		order = "ASC"
	}
	if limit <= 0 {
		limit = 100
	}
	args = append(args, min(limit, maxPage))
	rows, err := l.db.Query(ctx, fmt.Sprintf(`SELECT %s FROM events%s ORDER BY id %s LIMIT $%d`, recordColumns, where, order, len(args)), args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	recs, err := scanRecords(rows)
	if err != nil || !q.Payloads {
		return recs, err
	}
	return recs, l.LoadPayloads(ctx, recs)
}

func (q Query) where() (string, []any) {
	var conds []string
	var args []any
	add := func(cond string, arg any) {
		args = append(args, arg)
		conds = append(conds, fmt.Sprintf(cond, len(args)))
	}
	for _, f := range []struct{ column, value string }{{"run", q.Run}, {"call", q.Call}} {
		if f.value != "" {
			conds = append(conds, f.column+" <> ''") // lets the planner use the partial index
			add(f.column+" = $%d", clean(f.value))
		}
	}
	if q.Agent != "" {
		add("agent = $%d", clean(q.Agent))
	}
	if len(q.Types) > 0 {
		marks := make([]string, len(q.Types))
		for i, t := range q.Types {
			args = append(args, string(t))
			marks[i] = fmt.Sprintf("$%d", len(args))
		}
		conds = append(conds, "type IN ("+strings.Join(marks, ", ")+")")
	}
	if !q.Since.IsZero() {
		add("id >= $%d", idBound(q.Since))
		add("at >= $%d", storage.Micros(q.Since))
	}
	if !q.Until.IsZero() {
		add("id < $%d", idBound(q.Until.Add(16*time.Millisecond)))
		add("at < $%d", storage.Micros(q.Until))
	}
	if q.After != "" {
		op := "<"
		if q.Oldest {
			op = ">"
		}
		add("id "+op+" $%d", clean(q.After))
	}
	if len(conds) == 0 {
		return "", nil
	}
	return " WHERE " + strings.Join(conds, " AND "), args
}

// idBound returns a string that sorts not after any event identifier stamped
// with t or later: 9 of its characters hold 45 of the 48 bits of the
// milliseconds, so it is early by at most 8 of them.
func idBound(t time.Time) string {
	full := id.At(id.Event, t)
	return full[:len(id.Event)+1+9]
}

func scanRecords(rows *sql.Rows) ([]Record, error) {
	defer rows.Close()
	var recs []Record
	for rows.Next() {
		var r Record
		if err := rows.Scan(&r.Lane, &r.SN, &r.Chain, &r.Raw); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		var err error
		if r.Event, err = DecodeRecord(r.Raw); err != nil {
			return nil, ErrBroken.Say("lane %d, record %d of the log cannot be read; run countersign log verify", r.Lane, r.SN).With(err)
		}
		recs = append(recs, r)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return recs, nil
}

// LoadPayloads fills the payloads of recs, one query per run of neighbours in
// a lane.
func (l *Log) LoadPayloads(ctx context.Context, recs []Record) error {
	byPlace := map[[2]int64]*Record{}
	spans := map[int64][][2]int64{}
	for i := range recs {
		r := &recs[i]
		if len(r.Event.Payloads) == 0 {
			continue
		}
		byPlace[[2]int64{r.Lane, r.SN}] = r
		spans[r.Lane] = append(spans[r.Lane], [2]int64{r.SN, r.SN})
	}
	for lane, sp := range spans {
		slices.SortFunc(sp, func(a, b [2]int64) int { return int(a[0] - b[0]) })
		for len(sp) > 0 {
			span := sp[0]
			for sp = sp[1:]; len(sp) > 0 && sp[0][0]-span[1] < 8; sp = sp[1:] {
				span[1] = sp[0][1]
			}
			if err := l.payloadSpan(ctx, lane, span, byPlace); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Log) payloadSpan(ctx context.Context, lane int64, span [2]int64, to map[[2]int64]*Record) error {
	return l.bodies(ctx, lane, span[0]-1, span[1], func(b bodyRow) {
		r := to[[2]int64{lane, b.sn}]
		if r == nil {
			return
		}
		body, state := b.open(r.Event.ID)
		switch state {
		case bodyErased:
		case bodyWhole:
			if level := levelOf(r.Event.Payloads, b.n); level == Digest {
				return
			}
			if r.Payloads == nil {
				r.Payloads = map[string][]byte{}
			}
			r.Payloads[b.name] = body
		default:
			l.o.Logger.Error("a payload cannot be read; run countersign log verify", "event", r.Event.ID, "payload", b.name, "problem", state)
			r.Damaged = append(r.Damaged, b.name)
		}
	})
}

func levelOf(c []Commitment, n int64) Level {
	if n < 0 || n >= int64(len(c)) {
		return ""
	}
	return c[n].Level
}

// Cursor is a position in the log: per lane, the last record seen. The zero
// Cursor is the beginning.
type Cursor map[int64]int64

// Head returns the log's present end.
func (l *Log) Head(ctx context.Context) (Cursor, error) {
	rows, err := l.db.Query(ctx, `SELECT lane, sn FROM lanes`)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	c := Cursor{}
	for rows.Next() {
		var lane, sn int64
		if err := rows.Scan(&lane, &sn); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		c[lane] = sn
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return c, nil
}

// How often Follow looks when nothing wakes it: events of other replicas are
// found this way.
const followEvery = 250 * time.Millisecond

// Follow calls fn for every record after the cursor, payloads included: each
// lane in its order, the lanes in no order among each other. Having caught up
// it waits for more until ctx ends, the log closes (nil) or fn returns an
// error. It does not change after.
func (l *Log) Follow(ctx context.Context, after Cursor, fn func(Record) error) error {
	return l.follow(ctx, after, true, fn)
}

// Tail is Follow without the payloads.
func (l *Log) Tail(ctx context.Context, after Cursor, fn func(Record) error) error {
	return l.follow(ctx, after, false, fn)
}

func (l *Log) follow(ctx context.Context, after Cursor, payloads bool, fn func(Record) error) error {
	at := maps.Clone(after)
	if at == nil {
		at = Cursor{}
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		woken := l.wake.wait()
		for {
			n, err := l.Next(ctx, at, 256, payloads, func(r Record) error {
				at[r.Lane] = r.SN
				return fn(r)
			})
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.closing.Done():
			return nil
		case <-woken:
		case <-tick.C:
		}
	}
}

// Next calls fn for at most limit records per lane after the cursor and
// returns for how many. It does not change the cursor.
func (l *Log) Next(ctx context.Context, after Cursor, limit int, payloads bool, fn func(Record) error) (int, error) {
	head, err := l.Head(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, lane := range slices.Sorted(maps.Keys(head)) {
		from, to := after[lane], head[lane]
		if to <= from {
			continue
		}
		recs, err := l.span(ctx, lane, from, min(to, from+int64(limit)), payloads)
		if err != nil {
			return n, err
		}
		for _, r := range recs {
			if err := fn(r); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// span returns the records of a lane in (from, to].
func (l *Log) span(ctx context.Context, lane, from, to int64, payloads bool) ([]Record, error) {
	rows, err := l.db.Query(ctx, `SELECT `+recordColumns+` FROM events WHERE lane = $1 AND sn > $2 AND sn <= $3 ORDER BY sn`, lane, from, to)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	recs, err := scanRecords(rows)
	if err != nil || !payloads {
		return recs, err
	}
	return recs, l.LoadPayloads(ctx, recs)
}

// At returns the records at places, in no order and without payloads.
func (l *Log) At(ctx context.Context, places []Place) ([]Record, error) {
	lanes := map[int64][]any{}
	for _, p := range places {
		lanes[p.Lane] = append(lanes[p.Lane], p.SN)
	}
	var out []Record
	for lane, all := range lanes {
		for sns := range slices.Chunk(all, maxPage) {
			marks := make([]string, len(sns))
			for i := range sns {
				marks[i] = fmt.Sprintf("$%d", i+2)
			}
			rows, err := l.db.Query(ctx, `SELECT `+recordColumns+` FROM events WHERE lane = $1 AND sn IN (`+strings.Join(marks, ", ")+`)`, append([]any{lane}, sns...)...)
			if err != nil {
				return nil, storage.ErrUnavailable.With(err)
			}
			recs, err := scanRecords(rows)
			if err != nil {
				return nil, err
			}
			out = append(out, recs...)
		}
	}
	return out, nil
}
