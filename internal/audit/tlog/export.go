package tlog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"sync"
)

// ExportFormat names the form of an exported log: JSON Lines, an ExportHeader
// and then one ExportLine for each entry, in the order of their indexes.
const ExportFormat = "countersign-log/v1"

// ExportHeader is the first line of an exported log.
type ExportHeader struct {
	Format     string               `json:"format"`              // ExportFormat
	First      int64                `json:"first"`               // index of the first entry that follows
	Peaks      []string             `json:"peaks,omitempty"`     // roots of the perfect trees over the entries before it, largest first, base64
	Lanes      map[string]LaneStart `json:"lanes,omitempty"`     // where each lane stood before
	Checkpoint string               `json:"checkpoint"`          // signed; the export ends at its size
	Key        string               `json:"key"`                 // the log's first key
	Rotations  []string             `json:"rotations,omitempty"` // from it to the one that signed
	Payloads   bool                 `json:"payloads,omitempty"`  // what stands beside records is exported, too
}

// LaneStart is the end of a lane's chain before the first entry exported.
type LaneStart struct {
	SN    int64  `json:"sn"`
	Chain string `json:"chain"` // hex
}

// ExportLine is an entry.
type ExportLine struct {
	Index  int64  `json:"index"`
	Lane   int64  `json:"lane"`
	SN     int64  `json:"sn"`
	Chain  string `json:"chain"`  // hex: ChainHash after this record
	Record string `json:"record"` // the exact bytes

	Payloads []ExportPayload `json:"payloads,omitempty"` // if the header says so: one for each commitment of the record, in their order, but those of level digest
}

// ExportPayload is what a commitment was made of: digest = SHA-256(salt, body).
type ExportPayload struct {
	Name    string `json:"name"`
	Salt    []byte `json:"salt,omitempty"`    // base64
	Body    []byte `json:"body,omitempty"`    // base64
	Erased  bool   `json:"erased,omitempty"`  // on purpose: there is nothing to compare
	Problem string `json:"problem,omitempty"` // why it could not be exported
}

const maxLine = 16 << 20

type laneEnd struct {
	sn    int64
	chain Hash
}

// exported verifies an export line by line; line is the one that was looked at last.
type exported struct {
	lines *bufio.Scanner
	line  int
	tree  *compact
	lanes map[int64]laneEnd

	payloads bool // the header says that they are there
	check    func(record []byte) string
}

// VerifyExport verifies an exported log. Each record is checked against its
// lane's chain, which finds the first that was changed, removed, added or
// moved, and all of them against the checkpoint. progress, if not nil, is told
// how many are done.
func VerifyExport(r io.Reader, t Trust, progress func(done int64)) (Shown, error) {
	x := exported{lines: bufio.NewScanner(r), lanes: map[int64]laneEnd{}, check: t.Record}
	x.lines.Buffer(make([]byte, 64<<10), maxLine)
	h, err := x.header()
	if err != nil {
		return Shown{}, err
	}
	c, shown, err := t.open([]byte(h.Checkpoint), h.Key, h.Rotations)
	if err != nil {
		return Shown{}, err
	}
	for lines := x.batch(); len(lines) > 0; lines = x.batch() {
		for i := range lines {
			x.line++
			err := x.record(&lines[i], c.Size)
			if err == nil && lines[i].said != "" {
				err = wrong(x.where(), "%s", lines[i].said)
			}
			if err != nil {
				return shown, err
			}
			shown.Payloads += lines[i].payloads
			shown.Erased += lines[i].erased
		}
		shown.Entries += int64(len(lines))
		if progress != nil {
			progress(shown.Entries)
		}
	}
	if err := x.lines.Err(); err != nil {
		return shown, failed(x.where(), "cannot be read", err)
	}
	if x.tree.size != c.Size {
		return shown, wrong("export", "ends after entry %d; its checkpoint covers %d entries", x.tree.size-1, c.Size)
	}
	if x.tree.root() != c.Root {
		return shown, wrong("export", "the records form chains, but their tree has another root than the checkpoint: they were replaced together, or the checkpoint is of another log")
	}
	return shown, nil
}

// batchLines is how many lines are read before they are parsed, on all
// processors.
const batchLines = 2048

// line is what can be told of a line by itself.
type line struct {
	text        []byte
	entry       ExportLine // without the record, which is in leaf
	leaf, chain Hash
	notLine     error  // the text is no entry
	notChain    error  // its chain is no hash
	notPayload  error  // a payload is not what was committed to
	said        string // what Trust.Record says of the record
	payloads    int64  // compared
	erased      int64
}

// batch reads and parses some lines.
func (x *exported) batch() []line {
	lines := make([]line, 0, batchLines)
	for len(lines) < batchLines && x.lines.Scan() {
		lines = append(lines, line{text: bytes.Clone(x.lines.Bytes())})
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(lines, max(1, (len(lines)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))) {
		wg.Go(func() {
			for i := range part {
				part[i].parse(x.payloads, x.check)
			}
		})
	}
	wg.Wait()
	return lines
}

func (l *line) parse(payloads bool, check func([]byte) string) {
	if l.notLine = json.Unmarshal(l.text, &l.entry, json.RejectUnknownMembers(true)); l.notLine != nil {
		return
	}
	l.chain, l.notChain = parseHex(l.entry.Chain)
	l.leaf = LeafHash([]byte(l.entry.Record))
	if payloads || len(l.entry.Payloads) > 0 {
		l.notPayload = l.compare()
	}
	if check != nil {
		l.said = check([]byte(l.entry.Record))
	}
	l.text, l.entry.Record, l.entry.Payloads = nil, "", nil
}

// compare compares payloads with the record's commitments.
func (l *line) compare() error {
	var record struct {
		Payloads []struct {
			Name   string `json:"name"`
			Digest string `json:"digest"`
			Level  string `json:"level"`
		} `json:"payloads"`
	}
	if err := json.Unmarshal([]byte(l.entry.Record), &record); err != nil {
		return fmt.Errorf("its commitments cannot be read: %w", err)
	}
	left := l.entry.Payloads
	for _, c := range record.Payloads {
		if c.Level == "digest" {
			continue // nothing but the commitment was kept
		}
		if len(left) == 0 || left[0].Name != c.Name {
			return fmt.Errorf("%q is missing", cut(c.Name))
		}
		p := left[0]
		left = left[1:]
		switch {
		case p.Problem != "":
			return fmt.Errorf("%q %s", cut(c.Name), cut(p.Problem))
		case p.Erased:
			l.erased++
		case payloadDigest(p.Salt, p.Body) != c.Digest:
			return fmt.Errorf("%q was changed: it is not what the record commits to", cut(c.Name))
		default:
			l.payloads++
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%q is not in the record", cut(left[0].Name))
	}
	return nil
}

func payloadDigest(salt, body []byte) string {
	h := sha256.New()
	h.Write(salt)
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

func (x *exported) where() string { return "line " + strconv.Itoa(x.line) }

func (x *exported) header() (ExportHeader, error) {
	var h ExportHeader
	x.line = 1
	if !x.lines.Scan() {
		return h, failed("line 1", "there is no header", x.lines.Err())
	}
	if err := json.Unmarshal(x.lines.Bytes(), &h, json.RejectUnknownMembers(true)); err != nil {
		return h, failed("line 1", "the header cannot be read", err)
	}
	if h.Format != ExportFormat {
		return h, wrong("line 1", "the format is %q, not %s", cut(h.Format), ExportFormat)
	}
	x.payloads = h.Payloads
	peaks := make([]Hash, len(h.Peaks))
	for i, p := range h.Peaks {
		var err error
		if peaks[i], err = ParseHash(p); err != nil {
			return h, failed("line 1", "peak "+strconv.Itoa(i), err)
		}
	}
	var err error
	if x.tree, err = newCompact(h.First, peaks); err != nil {
		return h, failed("line 1", "the tree before the first entry", err)
	}
	for name, l := range h.Lanes {
		lane, err := strconv.ParseInt(name, 10, 64)
		if err != nil || l.SN < 0 {
			return h, wrong("line 1", "%q is not a lane", cut(name))
		}
		chain, err := parseHex(l.Chain)
		if err != nil {
			return h, failed("line 1", "the chain of lane "+name, err)
		}
		x.lanes[lane] = laneEnd{l.SN, chain}
	}
	return h, nil
}

func (x *exported) record(at *line, size int64) error {
	if at.notLine != nil {
		return failed(x.where(), "is not a record (entry "+strconv.FormatInt(x.tree.size, 10)+")", at.notLine)
	}
	l := at.entry
	where := func() string {
		return fmt.Sprintf("%s, record %d (lane %d, sn %d)", x.where(), l.Index, l.Lane, l.SN)
	}
	end := x.lanes[l.Lane]
	switch {
	case x.tree.size == size:
		return wrong(where(), "stands after the end of the checkpoint, which covers %d entries", size)
	case l.Index != x.tree.size:
		return wrong(where(), "entry %d was expected: one is missing, added or moved", x.tree.size)
	case l.SN != end.sn+1:
		return wrong(where(), "its lane stands at %d: a record is missing, added or moved", end.sn)
	case at.notChain != nil:
		return failed(where(), "its chain", at.notChain)
	case ChainHash(end.chain, l.Lane, l.SN, at.leaf) != at.chain:
		return wrong(where(), "was changed: the chain does not match")
	}
	if at.notPayload != nil {
		return failed(where(), "its payloads", at.notPayload)
	}
	x.lanes[l.Lane] = laneEnd{l.SN, at.chain}
	x.tree.append(at.leaf)
	return nil
}

func parseHex(s string) (Hash, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Hash{}) || hex.EncodeToString(b) != s {
		return Hash{}, fmt.Errorf("%q is not the hex of a SHA-256 hash", cut(s))
	}
	return Hash(b), nil
}

// compact is a tree of which only the peaks are kept.
type compact struct {
	size  int64
	peaks []Hash // largest first
}

func newCompact(size int64, peaks []Hash) (*compact, error) {
	n := 0
	for s := size; s > 0; s &= s - 1 {
		n++
	}
	if size < 0 || n != len(peaks) {
		return nil, errors.New("the number of peaks does not fit the number of entries")
	}
	return &compact{size, peaks}, nil
}

func (c *compact) append(leaf Hash) {
	h := leaf
	for s := c.size; s&1 == 1; s >>= 1 {
		last := len(c.peaks) - 1
		h = NodeHash(c.peaks[last], h)
		c.peaks = c.peaks[:last]
	}
	c.peaks = append(c.peaks, h)
	c.size++
}

func (c *compact) root() Hash { return fold(c.peaks) }
