package audit

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/countersign/countersign/internal/storage"
)

// Report is what Verify found.
type Report struct {
	Events   int64     // records checked
	Payloads int64     // payloads checked
	Erased   int64     // payloads erased on purpose; their commitments stand
	Lanes    int       // lanes checked
	Head     Cursor    // how far
	Problems []Problem // the first of each lane; empty means the log is whole
}

// Problem is a place where the log is not what was written.
type Problem struct {
	Lane, SN int64
	Event    string // empty if unknown
	Message  string
}

func (p Problem) Error() string {
	return fmt.Sprintf("lane %d, record %d %s: %s", p.Lane, p.SN, p.Event, p.Message)
}

const verifyPage = 512

// Verify walks every lane from its beginning to its head and checks numbering,
// chain, columns, payload commitments and head. It reports what it found and
// returns an error only if it could not look. progress, if not nil, is told
// how many records are done.
//
// A chain alone cannot show that its whole tail and its head were rewritten by
// somebody with write access to the database: checkpoints outside it can.
func (l *Log) Verify(ctx context.Context, progress func(done int64)) (Report, error) {
	head, err := l.Head(ctx)
	if err != nil {
		return Report{}, err
	}
	rep := Report{Lanes: len(head), Head: head}
	for _, lane := range slices.Sorted(maps.Keys(head)) {
		p, err := l.verifyLane(ctx, lane, head[lane], &rep, progress)
		if err != nil {
			return rep, err
		}
		if p != nil {
			rep.Problems = append(rep.Problems, *p)
		}
	}
	return rep, l.strays(ctx, &rep)
}

func (l *Log) verifyLane(ctx context.Context, lane, to int64, rep *Report, progress func(int64)) (*Problem, error) {
	var chain Hash
	for from := int64(0); from < to; {
		end := min(to, from+verifyPage)
		page, err := l.rawSpan(ctx, lane, from, end)
		if err != nil {
			return nil, err
		}
		pays, err := l.sealedSpan(ctx, lane, from, end)
		if err != nil {
			return nil, err
		}
		for sn := from + 1; sn <= end; sn++ {
			if len(page) == 0 || page[0].sn != sn {
				return &Problem{lane, sn, "", fmt.Sprintf("missing; the lane ends at %d", to)}, nil
			}
			r := page[0]
			chain = ChainHash(chain, lane, sn, LeafHash(r.record))
			if wrong := r.check(chain, pays[sn], rep); wrong != "" {
				return &Problem{lane, sn, r.id, wrong}, nil
			}
			page = page[1:]
			rep.Events++
		}
		from = end
		if progress != nil {
			progress(rep.Events)
		}
	}
	h, err := l.head(ctx, lane)
	if err != nil {
		return nil, err
	}
	if h.sn == to && h.chain != chain {
		return &Problem{lane, to, "", "the lane's head does not match its chain"}, nil
	}
	return nil, nil
}

// rawRow is a row of events, believed in nothing.
type rawRow struct {
	sn, at                    int64
	id, typ, call, run, agent string
	chain, record             []byte
}

// check returns what is wrong with r, "" if nothing is.
func (r rawRow) check(chain Hash, pays []sealedRow, rep *Report) string {
	if string(r.chain) != string(chain[:]) {
		return "the record, its place or one before it was changed: the chain does not match"
	}
	ev, err := DecodeRecord(r.record)
	if err != nil {
		return "the record is not an event"
	}
	if r.id != ev.ID || r.typ != string(ev.Type) || r.call != ev.Call || r.run != ev.Run || r.agent != ev.Agent || r.at != storage.Micros(ev.Time) {
		return "a column was changed: it differs from the record"
	}
	if len(pays) != len(ev.Payloads) {
		return fmt.Sprintf("%d payloads stand beside the record, it names %d", len(pays), len(ev.Payloads))
	}
	for i, c := range ev.Payloads {
		p := pays[i]
		if p.n != int64(i) || p.name != c.Name {
			return fmt.Sprintf("payload %q is not where the record names it", c.Name)
		}
		if p.salt == nil && p.body == nil {
			rep.Erased++
			continue
		}
		if sum := Commit(p.salt, p.body); hex.EncodeToString(sum[:]) != c.Digest {
			return fmt.Sprintf("payload %q was changed: it does not match the record's commitment", c.Name)
		}
		rep.Payloads++
	}
	return ""
}

func (l *Log) rawSpan(ctx context.Context, lane, from, to int64) ([]rawRow, error) {
	rows, err := l.db.Query(ctx, `SELECT sn, id, type, call, run, agent, at, chain, record FROM events WHERE lane = $1 AND sn > $2 AND sn <= $3 ORDER BY sn`, lane, from, to)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var page []rawRow
	for rows.Next() {
		var r rawRow
		if err := rows.Scan(&r.sn, &r.id, &r.typ, &r.call, &r.run, &r.agent, &r.at, &r.chain, &r.record); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		page = append(page, r)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return page, nil
}

type sealedRow struct {
	n          int64
	name       string
	salt, body []byte
}

func (l *Log) sealedSpan(ctx context.Context, lane, from, to int64) (map[int64][]sealedRow, error) {
	rows, err := l.db.Query(ctx, `SELECT sn, n, name, salt, body FROM payloads WHERE lane = $1 AND sn > $2 AND sn <= $3 ORDER BY sn, n`, lane, from, to)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	pays := map[int64][]sealedRow{}
	for rows.Next() {
		var sn int64
		var p sealedRow
		if err := rows.Scan(&sn, &p.n, &p.name, &p.salt, &p.body); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		pays[sn] = append(pays[sn], p)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return pays, nil
}

// strays finds records outside every lane, and lanes that are gone: they are
// numbered without gaps.
func (l *Log) strays(ctx context.Context, rep *Report) error {
	rows, err := l.db.Query(ctx, `SELECT e.lane, e.last, coalesce(l.sn, -1) FROM
		(SELECT lane, max(sn) AS last, min(sn) AS first FROM events GROUP BY lane) AS e LEFT JOIN lanes AS l ON l.lane = e.lane
		WHERE l.lane IS NULL OR e.last > l.sn OR e.first < 1 ORDER BY e.lane`)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		var lane, last, head int64
		if err := rows.Scan(&lane, &last, &head); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		msg := fmt.Sprintf("a record stands outside its lane, which ends at %d", head)
		if head < 0 {
			msg = "the lane of this record is missing"
		}
		rep.add(Problem{lane, last, "", msg})
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	for lane, n := int64(0), 0; n < len(rep.Head); lane++ {
		if _, ok := rep.Head[lane]; ok {
			n++
			continue
		}
		rep.add(Problem{lane, 0, "", "the lane is missing"})
	}
	return nil
}

// add appends a problem, the first of its lane only.
func (rep *Report) add(p Problem) {
	if !slices.ContainsFunc(rep.Problems, func(q Problem) bool { return q.Lane == p.Lane }) {
		rep.Problems = append(rep.Problems, p)
	}
}
