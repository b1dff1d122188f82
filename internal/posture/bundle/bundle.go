package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit/tlog"
)

// The names of files that a bundle must have.
const (
	Evidence  = "evidence.json"
	KeyProof  = "proofs/key.proof"
	signature = "signature.note"
)

// first is the first line of what is signed.
const first = "countersign evidence bundle v1"

// signer names the key that signs evidence.
const signer = "countersign-evidence"

// Limits of a bundle.
const (
	block    = 512
	maxFiles = 2000
	maxSize  = 1 << 30
)

// File is one file of a bundle. Its name has at most 100 bytes.
type File struct {
	Name string
	Body []byte
}

// Error says where a bundle is not what was written, in bytes from its beginning.
type Error struct {
	File     string // empty: none
	From, To int64
	Message  string
}

// Error implements error.
func (e *Error) Error() string {
	at := fmt.Sprintf("bytes %d to %d", e.From, e.To)
	if e.File != "" {
		at = e.File + " (" + at + ")"
	}
	return at + ": " + e.Message
}

// Key returns the signer of a 32-byte seed, and its vkey.
func Key(seed []byte) (note.Signer, string, error) {
	return tlog.NewSigner(signer, ed25519.NewKeyFromSeed(seed))
}

// Write returns the bundle of files, signed.
func Write(files []File, at time.Time, by note.Signer) ([]byte, error) {
	var out bytes.Buffer
	text := fmt.Sprintf("%s\n%s\n%d\n", first, at.UTC().Format(time.RFC3339), len(files))
	for _, f := range files {
		from := out.Len()
		if err := add(&out, f); err != nil {
			return nil, err
		}
		text += line(out.Bytes()[from:], int64(from), f.Name)
	}
	signed, err := note.Sign(&note.Note{Text: text}, by)
	if err != nil {
		return nil, err
	}
	if err := add(&out, File{signature, signed}); err != nil {
		return nil, err
	}
	out.Write(make([]byte, 2*block))
	return out.Bytes(), nil
}

func line(segment []byte, from int64, name string) string {
	sum := sha256.Sum256(segment)
	return fmt.Sprintf("%s %d %d %s\n", hex.EncodeToString(sum[:]), from, len(segment), name)
}

func add(out *bytes.Buffer, f File) error {
	h, err := header(f.Name, int64(len(f.Body)))
	if err != nil {
		return err
	}
	out.Write(h)
	out.Write(f.Body)
	out.Write(make([]byte, padding(int64(len(f.Body)))))
	return nil
}

func padding(size int64) int64 { return (block - size%block) % block }

// header is the one tar header (ustar) that a file of this name and size has:
// without time, owner or mode of its own.
func header(name string, size int64) ([]byte, error) {
	if name == "" || len(name) > 100 || strings.ContainsAny(name, "\x00\n ") || strings.HasPrefix(name, "/") || strings.Contains(name, "..") || size < 0 || size > maxSize {
		return nil, fmt.Errorf("%q of %d bytes cannot be in a bundle", name, size)
	}
	h := make([]byte, block)
	copy(h, name)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00")
	copy(h[148:], "        ")
	h[156] = '0'
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h, nil
}

// part is a file and the bytes that it takes.
type part struct {
	File
	from, to int64
}

// split reads the archive. Every byte of it must be as Write writes it, but for
// what stands in files.
func split(b []byte) (parts []part, err error) {
	at := int64(0)
	for {
		rest := b[at:]
		if len(rest) < block {
			return nil, &Error{From: at, To: int64(len(b)), Message: "the file ends in the middle"}
		}
		if rest[0] == 0 {
			if int64(len(rest)) != 2*block || !bytes.Equal(rest, make([]byte, 2*block)) {
				return nil, &Error{From: at, To: int64(len(b)), Message: "the end of the archive is not as it was written"}
			}
			return parts, nil
		}
		name, _, _ := bytes.Cut(rest[:100], []byte{0})
		size, perr := strconv.ParseInt(string(rest[124:135]), 8, 64)
		want, herr := header(string(name), size)
		if perr != nil || herr != nil || !bytes.Equal(rest[:block], want) {
			return nil, &Error{From: at, To: at + block, Message: "the header of a file is not as it was written"}
		}
		end := at + block + size + padding(size)
		if end > int64(len(b)) || len(parts) == maxFiles {
			return nil, &Error{File: string(name), From: at, To: int64(len(b)), Message: "the file ends in the middle, or there are too many"}
		}
		if !bytes.Equal(b[at+block+size:end], make([]byte, padding(size))) {
			return nil, &Error{File: string(name), From: at + block + size, To: end, Message: "what fills up the block is not as it was written"}
		}
		parts = append(parts, part{File{string(name), rest[block : block+size]}, at, end})
		at = end
	}
}

// signed returns the text under the bundle's signature.
func signed(parts []part, key note.Verifier) (string, error) {
	last := parts[len(parts)-1]
	bad := func(why string) error { return &Error{signature, last.from, last.to, why} }
	if last.Name != signature {
		return "", bad("the last file is not the signature")
	}
	n, err := note.Open(last.Body, note.VerifierList(key))
	if err != nil {
		return "", bad("the signature is not right: the list of files or the signature was changed (" + err.Error() + ")")
	}
	again := n.Text + "\n— " + n.Sigs[0].Name + " " + n.Sigs[0].Base64 + "\n"
	if len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 0 || again != string(last.Body) || !strict(n.Sigs[0].Base64) {
		return "", bad("the signature is not written as it was")
	}
	return n.Text, nil
}

// listed compares the files with the signed list.
func listed(b []byte, parts []part, text string) (exported time.Time, err error) {
	want := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(want) < 3 || want[0] != first || want[2] != strconv.Itoa(len(want)-3) {
		return time.Time{}, errors.New("what is signed is no list of a bundle")
	}
	if exported, err = time.Parse(time.RFC3339, want[1]); err != nil {
		return time.Time{}, errors.New("what is signed is no list of a bundle")
	}
	files := parts[:len(parts)-1]
	for i, l := range want[3:] {
		if i >= len(files) {
			return exported, &Error{From: int64(len(b)), To: int64(len(b)), Message: "a file is missing: " + cut(l)}
		}
		f := files[i]
		if l+"\n" != line(b[f.from:f.to], f.from, f.Name) {
			return exported, &Error{f.Name, f.from, f.to, "it is not what was signed"}
		}
	}
	if len(files) > len(want)-3 {
		f := files[len(want)-3]
		return exported, &Error{f.Name, f.from, f.to, "it was added"}
	}
	return exported, nil
}

func cut(s string) string {
	if len(s) > 200 {
		return s[:200]
	}
	return s
}

func body(parts []part, name string) ([]byte, part, bool) {
	i := slices.IndexFunc(parts, func(p part) bool { return p.Name == name })
	if i < 0 {
		return nil, part{}, false
	}
	return parts[i].Body, parts[i], true
}
