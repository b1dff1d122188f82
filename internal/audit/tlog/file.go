package tlog

import (
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// The formats of files.
const (
	ProofFormat = "countersign-proof/v1"
	proofV1     = "c2sp.org/tlog-proof@v1"
)

// Proof is the inclusion of one entry under a checkpoint (C2SP tlog-proof).
type Proof struct {
	Index      int64
	Hashes     []Hash // the leaf's sibling first
	Checkpoint string // signed note with its cosignatures
}

// Text returns the C2SP tlog-proof form.
func (p Proof) Text() string {
	var b strings.Builder
	b.WriteString(proofV1 + "\nindex " + strconv.FormatInt(p.Index, 10) + "\n")
	for _, h := range p.Hashes {
		b.WriteString(h.String() + "\n")
	}
	b.WriteString("\n" + p.Checkpoint)
	return b.String()
}

// ParseProof reads the C2SP tlog-proof form. Its extra line is ignored.
func ParseProof(text string) (Proof, error) {
	const where = "proof"
	head, checkpoint, ok := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || len(lines) < 2 || lines[0] != proofV1 {
		return Proof{}, wrong(where, "not a %s", proofV1)
	}
	lines = lines[1:]
	if extra, has := strings.CutPrefix(lines[0], "extra "); has {
		if _, err := base64.StdEncoding.Strict().DecodeString(extra); err != nil || len(lines) < 2 {
			return Proof{}, wrong(where, "its extra line is not base64")
		}
		lines = lines[1:]
	}
	index, has := strings.CutPrefix(lines[0], "index ")
	if !has {
		return Proof{}, wrong(where, "has no index")
	}
	n, err := parseSize(index)
	if err != nil {
		return Proof{}, failed(where, "has no index", err)
	}
	if len(lines) > 64 {
		return Proof{}, wrong(where, "more than 63 hashes")
	}
	p := Proof{Index: n, Checkpoint: checkpoint}
	for i, l := range lines[1:] {
		h, err := ParseHash(l)
		if err != nil {
			return Proof{}, failed(where, "hash "+strconv.Itoa(i), err)
		}
		p.Hashes = append(p.Hashes, h)
	}
	return p, nil
}

// ProofFile is one event with everything needed to show that it is in the log.
type ProofFile struct {
	Format    string   `json:"format"`              // ProofFormat
	Record    string   `json:"record"`              // the event's exact bytes: the entry whose leaf hash is proven
	Proof     string   `json:"proof"`               // C2SP tlog-proof: index, audit path, checkpoint, cosignatures
	Key       string   `json:"key"`                 // the log's first key (vkey); trust it only if known from elsewhere
	Rotations []string `json:"rotations,omitempty"` // from the first key to the one that signed
	Witnesses []string `json:"witnesses,omitempty"` // vkeys of those who cosigned; trust them only if known from elsewhere
}

// Encode returns the file's bytes.
func (f ProofFile) Encode() ([]byte, error) {
	f.Format = ProofFormat
	if !utf8.ValidString(f.Record) {
		return nil, wrong("record", "not UTF-8, so it cannot be put into a proof file")
	}
	b, err := json.Marshal(f, jsontext.WithIndent("  "))
	return append(b, '\n'), err
}

// maxProofFile is the largest proof file that is read, in bytes.
const maxProofFile = 8 << 20

// DecodeProofFile reads a proof file; it verifies nothing.
func DecodeProofFile(b []byte) (ProofFile, error) {
	var f ProofFile
	if len(b) > maxProofFile {
		return f, wrong("proof file", "larger than %d bytes", maxProofFile)
	}
	if err := json.Unmarshal(b, &f, json.RejectUnknownMembers(true)); err != nil {
		return ProofFile{}, failed("proof file", "cannot be read", err)
	}
	if f.Format != ProofFormat {
		return ProofFile{}, wrong("proof file", "its format is %q, not %s", cut(f.Format), ProofFormat)
	}
	return f, nil
}

// Trust is what a verifier knows from elsewhere.
type Trust struct {
	Key       string   // a vkey of the log; empty: the file's own key is taken, and only its coherence shown
	Witnesses []string // vkeys of the witnesses whose cosignatures count
	Quorum    int      // how many of them must have cosigned
	// Record, if set, says what is wrong with a record of a proof or an export,
	// once it was shown to be in the log; "" if nothing is. It is called by
	// several goroutines at once.
	Record func(record []byte) string
}

// said is what t's own check says about a record.
func (t Trust) said(where, record string) error {
	if t.Record == nil {
		return nil
	}
	if problem := t.Record([]byte(record)); problem != "" {
		return wrong(where, "%s", problem)
	}
	return nil
}

// Shown is what a verification has shown.
type Shown struct {
	Origin       string
	Size         int64 // of the checkpoint
	Root         Hash
	Key          string // that signed the checkpoint
	Trusted      bool   // the key was known from elsewhere, or follows from one that was
	Cosignatures []Cosignature
	Index        int64  // of the entry, for a proof
	Record       string // the entry, for a proof
	Entries      int64  // checked
	Tiles        int64  // checked
	Payloads     int64  // compared with their commitments
	Erased       int64  // payloads that were erased on purpose
}

// VerifyProof verifies a proof file.
func VerifyProof(b []byte, t Trust) (Shown, error) {
	f, err := DecodeProofFile(b)
	if err != nil {
		return Shown{}, err
	}
	p, err := ParseProof(f.Proof)
	if err != nil {
		return Shown{}, err
	}
	c, shown, err := t.open([]byte(p.Checkpoint), f.Key, f.Rotations)
	if err != nil {
		return Shown{}, err
	}
	if err := VerifyInclusion(p.Index, c.Size, LeafHash([]byte(f.Record)), p.Hashes, c.Root); err != nil {
		return Shown{}, failed("record "+strconv.FormatInt(p.Index, 10), "the record, the proof and the checkpoint do not belong together", err)
	}
	shown.Index, shown.Record, shown.Entries = p.Index, f.Record, 1
	return shown, t.said("record "+strconv.FormatInt(p.Index, 10), f.Record)
}

// open verifies a checkpoint by what is trusted, or else by its own key.
func (t Trust) open(checkpoint []byte, own string, rotations []string) (Signed, Shown, error) {
	trusted := t.Key
	if trusted == "" {
		trusted = own
	}
	keys, err := OpenKeys(trusted, rotations)
	if err != nil {
		return Signed{}, Shown{}, err
	}
	var witnesses []note.Verifier
	if witnesses, err = ParseWitnesses(t.Witnesses); err != nil {
		return Signed{}, Shown{}, failed("witness", "its key cannot be read", err)
	}
	c, err := OpenCheckpoint(checkpoint, keys, witnesses)
	if err != nil {
		return Signed{}, Shown{}, err
	}
	names := map[string]bool{}
	for _, cs := range c.Cosignatures {
		names[cs.Name] = true
	}
	if len(names) < t.Quorum {
		return Signed{}, Shown{}, wrong("checkpoint", "cosigned by %d of the known witnesses, %d are asked for", len(names), t.Quorum)
	}
	return c, Shown{Origin: c.Origin, Size: c.Size, Root: c.Root, Key: c.Key, Trusted: t.Key != "", Cosignatures: c.Cosignatures}, nil
}
