package audit

import (
	"context"
	"crypto/sha256"
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
	Erased   int64     // payloads erased or expired; their commitments stand
	Unkept   int64     // payloads of which the commitment alone was kept
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
	rep, why := Report{Lanes: len(head), Head: head}, newErasureReasons(l)
	for _, lane := range slices.Sorted(maps.Keys(head)) {
		p, err := l.verifyLane(ctx, lane, 0, head[lane], &rep, why, progress)
		if err != nil {
			return rep, err
		}
		if p != nil {
			rep.Problems = append(rep.Problems, *p)
		}
	}
	return rep, l.strays(ctx, &rep)
}

// verifyLane verifies the records of a lane in (from, to]. What is before it is
// believed.
func (l *Log) verifyLane(ctx context.Context, lane, from, to int64, rep *Report, why *erasureReasons, progress func(int64)) (*Problem, error) {
	chain, p, err := l.chainAt(ctx, lane, from)
	if p != nil || err != nil {
		return p, err
	}
	for from < to {
		end := min(to, from+verifyPage)
		page, err := l.rawSpan(ctx, lane, from, end)
		if err != nil {
			return nil, err
		}
		pays, err := l.checkedBodies(ctx, lane, page)
		if err != nil {
			return nil, err
		}
		for sn := from + 1; sn <= end; sn++ {
			if len(page) == 0 || page[0].sn != sn {
				return &Problem{lane, sn, "", fmt.Sprintf("missing; the lane ends at %d", to)}, nil
			}
			r := page[0]
			chain = ChainHash(chain, lane, sn, LeafHash(r.record))
			wrong, err := r.check(ctx, chain, pays[sn], rep, why, l.o.Check)
			if err != nil {
				return nil, err
			}
			if wrong != "" {
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

// chainAt returns a lane's chain after a record, or what is wrong with it.
func (l *Log) chainAt(ctx context.Context, lane, sn int64) (chain Hash, p *Problem, err error) {
	if sn == 0 {
		return chain, nil, nil
	}
	row, err := l.rawSpan(ctx, lane, sn-1, sn)
	switch {
	case err != nil:
		return chain, nil, err
	case len(row) == 0:
		return chain, &Problem{lane, sn, "", "missing"}, nil
	case len(row[0].chain) != len(chain):
		return chain, &Problem{lane, sn, row[0].id, "its chain is no hash"}, nil
	}
	return Hash(row[0].chain), nil, nil
}

// rawRow is a row of events, believed in nothing.
type rawRow struct {
	sn, at                    int64
	id, typ, call, run, agent string
	chain, record             []byte
}

// check returns what is wrong with r, "" if nothing is.
func (r rawRow) check(ctx context.Context, chain Hash, pays []checkedBody, rep *Report, why *erasureReasons, room func(Event) string) (string, error) {
	if string(r.chain) != string(chain[:]) {
		return "the record, its place or one before it was changed: the chain does not match", nil
	}
	ev, err := DecodeRecord(r.record)
	if err != nil {
		return "the record is not an event", nil
	}
	if r.id != ev.ID || r.typ != string(ev.Type) || r.call != ev.Call || r.run != ev.Run || r.agent != ev.Agent || r.at != storage.Micros(ev.Time) {
		return "a column was changed: it differs from the record", nil
	}
	if len(pays) != len(ev.Payloads) {
		return fmt.Sprintf("%d payloads stand beside the record, it names %d", len(pays), len(ev.Payloads)), nil
	}
	if room != nil {
		if wrong := room(ev); wrong != "" {
			return wrong, nil
		}
	}
	why.learn(&ev)
	for i, c := range ev.Payloads {
		p := pays[i]
		switch {
		case p.n != int64(i) || p.name != c.Name:
			return fmt.Sprintf("payload %q is not where the record names it", c.Name), nil
		case p.state == bodyErased:
			ok, err := why.explain(ctx, &ev, p.key)
			if err != nil {
				return "", err
			}
			if !ok {
				return fmt.Sprintf("payload %q is gone, and no event says that it was erased", c.Name), nil
			}
			rep.Erased++
		case p.state != bodyWhole:
			return fmt.Sprintf("payload %q %s", c.Name, p.state), nil
		case c.Level == Digest && p.size == saltSize:
			rep.Unkept++
		case hex.EncodeToString(p.sum[:]) != c.Digest:
			return fmt.Sprintf("payload %q was changed: it does not match the record's commitment", c.Name), nil
		default:
			rep.Payloads++
		}
	}
	return "", nil
}

// checkedBody is what is to know of a body once it was read.
type checkedBody struct {
	n, key int64
	name   string
	state  string
	size   int  // of salt and body
	sum    Hash // of salt and body: the commitment
}

// checkedBodies reads the payloads that stand beside the records of a page.
func (l *Log) checkedBodies(ctx context.Context, lane int64, page []rawRow) (map[int64][]checkedBody, error) {
	pays, events := map[int64][]checkedBody{}, map[int64]string{}
	if len(page) == 0 {
		return pays, nil
	}
	for _, r := range page {
		events[r.sn] = r.id
	}
	return pays, l.bodies(ctx, lane, page[0].sn-1, page[len(page)-1].sn, func(b bodyRow) {
		c := checkedBody{n: b.n, key: b.key, name: b.name}
		var plain []byte
		plain, c.state = b.plain(events[b.sn])
		c.size, c.sum = len(plain), sha256.Sum256(plain)
		pays[b.sn] = append(pays[b.sn], c)
	})
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
