package seal

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json/v2"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit/tlog"
)

// Prove returns the proof file of an event: ErrNotSealed in the moments before
// it is sealed, audit.ErrNotFound if there is no such event. What it returns
// has been verified.
func (s *Service) Prove(ctx context.Context, event string) (tlog.ProofFile, error) {
	lane, sn, err := s.log.Place(ctx, event)
	if err != nil {
		return tlog.ProofFile{}, err
	}
	index, err := s.store.index(ctx, lane, sn)
	if err != nil {
		return tlog.ProofFile{}, err
	}
	c, err := s.store.covering(ctx, index)
	if err != nil {
		return tlog.ProofFile{}, err
	}
	hashes, err := tlog.ProveInclusion(index, c.Size, tlog.TileNodes(c.Size, s.tile(ctx)))
	if err != nil {
		return tlog.ProofFile{}, broken(err)
	}
	keys, err := s.Keys(ctx)
	if err != nil {
		return tlog.ProofFile{}, err
	}
	f := tlog.ProofFile{Format: tlog.ProofFormat, Key: keys.First, Rotations: keys.Rotations, Witnesses: s.witnessKeys(),
		Proof: tlog.Proof{Index: index, Hashes: hashes, Checkpoint: c.Note}.Text()}
	if err := s.log.Raw(ctx, lane, sn-1, sn, func(_ int64, _, record []byte) error { f.Record = string(record); return nil }); err != nil {
		return tlog.ProofFile{}, err
	}
	b, err := f.Encode()
	if err == nil {
		_, err = tlog.VerifyProof(b, tlog.Trust{Key: keys.First})
	}
	if err != nil {
		return tlog.ProofFile{}, ErrBroken.Say("event %s (lane %d, record %d) cannot be proven: the log does not match its tree", event, lane, sn).With(err)
	}
	return f, nil
}

func (s *Service) witnessKeys() []string {
	var out []string
	for _, w := range s.witnesses {
		out = append(out, w.Key)
	}
	return out
}

// Export writes the records from index first on, up to the newest checkpoint,
// in the form that tlog.VerifyExport verifies.
func (s *Service) Export(ctx context.Context, first int64, payloads bool, to io.Writer) error {
	c, err := s.store.newest(ctx)
	if err != nil {
		return err
	}
	if c == nil || first < 0 || first > c.Size {
		return ErrNotSealed.Say("there is no checkpoint that covers record %d yet", first)
	}
	keys, err := s.Keys(ctx)
	if err != nil {
		return err
	}
	b, err := tlog.NewBuilder(first, s.tile(ctx))
	if err != nil {
		return broken(err)
	}
	h := tlog.ExportHeader{Format: tlog.ExportFormat, First: first, Lanes: map[string]tlog.LaneStart{}, Checkpoint: c.Note, Key: keys.First, Rotations: keys.Rotations, Payloads: payloads}
	for _, p := range b.Peaks() {
		h.Peaks = append(h.Peaks, p.String())
	}
	w := bufio.NewWriterSize(to, 64<<10)
	if err := s.laneStarts(ctx, first, &h); err != nil {
		return err
	}
	if err := writeLine(w, h); err != nil {
		return err
	}
	err = s.each(ctx, first, c.Size, func(idx int64, p span, sn int64, chain, record []byte) error {
		l := tlog.ExportLine{Index: idx, Lane: p.lane, SN: sn, Chain: hex.EncodeToString(chain), Record: string(record)}
		if payloads {
			if err := s.openings(ctx, &l, record); err != nil {
				return err
			}
		}
		return writeLine(w, l)
	})
	if err != nil {
		return err
	}
	return w.Flush()
}

// How long an export waits for what was recorded before it to be sealed.
const (
	sealedWithin = 5 * time.Second
	sealedEvery  = 50 * time.Millisecond
)

// caughtUp waits until what is in the log now is sealed, so that whoever exports
// what they just did finds it in the file. What is not sealed by then, because
// sealing has failed, is far behind or is blocked, is not waited for: the file
// says itself how far it goes.
func (s *Service) caughtUp(ctx context.Context) error {
	end, err := s.log.Head(ctx)
	if err != nil {
		return err
	}
	for range int(sealedWithin / sealedEvery) {
		lanes, err := s.store.lanes(ctx)
		if err != nil {
			return err
		}
		behind := slices.ContainsFunc(slices.Collect(maps.Keys(end)), func(lane int64) bool { return lanes[lane].sn < end[lane] })
		if !behind || s.Standing() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(sealedEvery):
		}
	}
	return nil
}

// openings adds what a record's commitments were made of.
func (s *Service) openings(ctx context.Context, l *tlog.ExportLine, record []byte) error {
	all, err := s.log.Openings(ctx, l.Lane, l.SN, record)
	for _, o := range all {
		l.Payloads = append(l.Payloads, tlog.ExportPayload(o))
	}
	return err
}

func writeLine(w *bufio.Writer, v any) error {
	if err := json.MarshalWrite(w, v, json.Deterministic(true)); err != nil {
		return err
	}
	return w.WriteByte('\n')
}

// laneStarts fills where each lane stood before index first.
func (s *Service) laneStarts(ctx context.Context, first int64, h *tlog.ExportHeader) error {
	ends, err := s.store.lanesAt(ctx, first)
	if err != nil {
		return err
	}
	for lane, sn := range ends {
		err := s.log.Raw(ctx, lane, sn-1, sn, func(_ int64, chain, _ []byte) error {
			h.Lanes[decimal(lane)] = tlog.LaneStart{SN: sn, Chain: hex.EncodeToString(chain)}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// spanPage is how many spans are read at a time.
const spanPage = 1000

// each calls fn for the leaves [lo, hi) in order, with their records. The
// bytes are valid during the call only.
func (s *Service) each(ctx context.Context, lo, hi int64, fn func(idx int64, p span, sn int64, chain, record []byte) error) error {
	for lo < hi {
		spans, err := s.store.spans(ctx, lo, hi, spanPage)
		if err != nil {
			return err
		}
		from := lo
		for _, p := range spans {
			if lo < p.idx || lo >= p.idx+p.n {
				return ErrBroken.Say("leaf %d of the tree belongs to no record", lo)
			}
			if lo, err = s.eachOf(ctx, p, lo, min(hi, p.idx+p.n), fn); err != nil {
				return err
			}
		}
		if lo == from {
			return ErrBroken.Say("leaf %d of the tree belongs to no record", lo)
		}
	}
	return nil
}

func (s *Service) eachOf(ctx context.Context, p span, lo, hi int64, fn func(idx int64, p span, sn int64, chain, record []byte) error) (int64, error) {
	const page = 4096 // a query stays short, so that no snapshot is held for long
	for lo < hi {
		sn, end := p.sn+lo-p.idx, min(hi, lo+page)
		err := s.log.Raw(ctx, p.lane, sn-1, sn-1+end-lo, func(got int64, chain, record []byte) error {
			if got != sn {
				return ErrBroken.Say("record %d (lane %d, sn %d) is missing from the log", lo, p.lane, sn)
			}
			err := fn(lo, p, sn, chain, record)
			lo, sn = lo+1, sn+1
			return err
		})
		if err != nil {
			return lo, err
		}
		if lo != end {
			return lo, ErrBroken.Say("record %d (lane %d, sn %d) is missing from the log", lo, p.lane, sn)
		}
	}
	return lo, nil
}

// bundle returns a bundle of entries.
func (s *Service) bundle(ctx context.Context, t tlog.Tile) ([]byte, error) {
	h, err := s.store.head(ctx)
	if err != nil {
		return nil, err
	}
	if !t.Covers(h.size) {
		return nil, ErrNoTile
	}
	lo := t.Index * tlog.TileWidth
	var out []byte
	err = s.each(ctx, lo, lo+int64(t.Width), func(_ int64, _ span, _ int64, _, record []byte) error {
		var err error
		if out, err = tlog.AppendEntry(out, record); err != nil {
			return ErrTooLarge
		}
		return nil
	})
	return out, err
}

// Status says how the sealing goes.
type Status struct {
	Origin     string          `json:"origin"`
	Size       int64           `json:"size" doc:"records sealed"`
	Checkpoint time.Time       `json:"checkpoint,omitzero" doc:"time of the newest one"`
	Behind     int64           `json:"behind" doc:"records not sealed yet"`
	Leader     bool            `json:"leader" doc:"this process seals"`
	Blocked    string          `json:"blocked,omitempty" doc:"why nothing is sealed until a person accepts it"`
	Error      string          `json:"error,omitempty" doc:"why the last attempt failed"`
	Witnesses  []WitnessStatus `json:"witnesses,omitempty"`
}

// Status returns how the sealing goes.
func (s *Service) Status(ctx context.Context) (Status, error) {
	h, err := s.store.head(ctx)
	if err != nil {
		return Status{}, err
	}
	lanes, err := s.store.lanes(ctx)
	if err != nil {
		return Status{}, err
	}
	end, err := s.log.Head(ctx)
	if err != nil {
		return Status{}, err
	}
	keys, err := s.Keys(ctx)
	if err != nil {
		return Status{}, err
	}
	c, err := s.store.newest(ctx)
	if err != nil {
		return Status{}, err
	}
	st := Status{Origin: keys.Origin, Size: h.size, Blocked: h.blocked, Leader: s.leads()}
	if c != nil {
		st.Checkpoint = c.At
	}
	for lane, sn := range end {
		st.Behind += sn - lanes[lane].sn
	}
	s.mu.Lock()
	st.Error = s.wrong
	s.mu.Unlock()
	for _, w := range s.witnesses {
		st.Witnesses = append(st.Witnesses, w.status())
	}
	return st, nil
}
