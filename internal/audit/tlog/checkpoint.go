package tlog

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint is a tree head (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin     string // names the log
	Size       int64  // leaves
	Root       Hash
	Extensions []string // opaque lines; Countersign writes none
}

// Text returns the text that is signed.
func (c Checkpoint) Text() string {
	lines := append([]string{c.Origin, strconv.FormatInt(c.Size, 10), c.Root.String()}, c.Extensions...)
	return strings.Join(lines, "\n") + "\n"
}

// ParseCheckpoint reads a text without signatures.
func ParseCheckpoint(text string) (Checkpoint, error) {
	body, ok := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 3 || slices.Contains(lines, "") {
		return Checkpoint{}, wrong("checkpoint", "not three or more lines that are not empty")
	}
	size, err := parseSize(lines[1])
	if err != nil {
		return Checkpoint{}, failed("checkpoint", "its second line is not a size", err)
	}
	root, err := ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, failed("checkpoint", "its third line is not a root", err)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: root, Extensions: slices.Clip(lines[3:])}, nil
}

// parseSize reads a decimal without sign and leading zeroes.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%q is not a number of leaves", cut(s))
	}
	return n, nil
}

// Cosignature says that a witness has seen a checkpoint and that it extends
// every one of this log that it had seen before.
type Cosignature struct {
	Name string
	Time time.Time
}

// Signed is a checkpoint whose signatures have been verified.
type Signed struct {
	Checkpoint
	Note         string // all of it, as it was read
	Key          string // the vkey that signed it
	Cosignatures []Cosignature
	Ignored      []string // names of signatures by keys that nobody named
}

// maxNote is the largest signed note that is read, in bytes.
const maxNote = 256 << 10

// OpenCheckpoint reads a signed checkpoint and verifies the log's signature by
// one of keys, and every cosignature by one of witnesses. A signature by a
// named key that does not verify is an error; signatures by others are ignored.
func OpenCheckpoint(msg []byte, keys Keys, witnesses []note.Verifier) (Signed, error) {
	if len(msg) > maxNote {
		return Signed{}, wrong("checkpoint", "larger than %d bytes", maxNote)
	}
	text, err := textOf(msg)
	if err != nil {
		return Signed{}, err
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return Signed{}, err
	}
	all := slices.Clone(witnesses)
	for _, k := range keys {
		all = append(all, k.verifier)
	}
	n, err := note.Open(msg, note.VerifierList(all...))
	if err != nil {
		return Signed{}, checkpointError(err, c, keys)
	}
	s := Signed{Checkpoint: c, Note: string(msg)}
	for _, sig := range n.Sigs {
		if k, ok := keys.find(sig.Name, sig.Hash); ok {
			if k.verifier.Name() != c.Origin {
				return Signed{}, wrong("checkpoint", "it is of log %q, signed with the key of log %q", cut(c.Origin), cut(sig.Name))
			}
			if k.retired && c.Size > k.Until {
				return Signed{}, wrong("checkpoint", "of size %d is signed by a key that was replaced at size %d", c.Size, k.Until)
			}
			s.Key = k.VKey
			continue
		}
		at, err := cosignedAt(sig)
		if err != nil {
			return Signed{}, err
		}
		s.Cosignatures = append(s.Cosignatures, Cosignature{Name: sig.Name, Time: at})
	}
	for _, sig := range n.UnverifiedSigs {
		s.Ignored = append(s.Ignored, sig.Name)
	}
	if s.Key == "" {
		return Signed{}, wrong("checkpoint", "not signed by a key of this log (%s)", keys.names())
	}
	return s, nil
}

func textOf(msg []byte) (string, error) {
	i := strings.LastIndex(string(msg), "\n\n")
	if i < 0 {
		return "", wrong("checkpoint", "not a signed note: no blank line before the signatures")
	}
	return string(msg[:i+1]), nil
}

func checkpointError(err error, c Checkpoint, keys Keys) error {
	var unverified *note.UnverifiedNoteError
	var invalid *note.InvalidSignatureError
	switch {
	case errors.As(err, &unverified):
		return wrong("checkpoint", "of log %q, not signed by a key of this log (%s)", cut(c.Origin), keys.names())
	case errors.As(err, &invalid):
		return wrong("checkpoint", "the signature of %q does not match the text", cut(invalid.Name))
	}
	return failed("checkpoint", "not a signed note", err)
}

// SignCheckpoint returns the signed note of c.
func SignCheckpoint(c Checkpoint, by note.Signer) (string, error) {
	msg, err := note.Sign(&note.Note{Text: c.Text()}, by)
	return string(msg), err
}
