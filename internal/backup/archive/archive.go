package archive

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"filippo.io/age"
)

// Format is the version of this form.
const Format = "countersign-backup-v1"

// maxLine bounds a line, in bytes: a row with the largest payload in base64.
const maxLine = 256 << 20

// Head says what a backup is of.
type Head struct {
	Format     string    `json:"format"`
	Version    string    `json:"version"` // of the program that made it
	Engine     string    `json:"engine"`  // that it was made of; it is restored on any
	Taken      time.Time `json:"taken"`
	Migrations []int64   `json:"migrations"`
	// Key opens the keys in the rows, and nothing else; 32 bytes. It exists in
	// this backup only.
	Key []byte `json:"key"`
}

// Tally is what the end of a backup says.
type Tally struct {
	Tables int    `json:"tables"`
	Rows   int64  `json:"rows"`
	SHA256 string `json:"sha256"`
}

// ErrBroken says that something is not a whole backup.
var ErrBroken = errors.New("this is not a whole backup: it was cut off or changed")

type line struct {
	Head    *Head    `json:"head,omitempty"`
	Table   string   `json:"table,omitempty"`
	Columns []string `json:"columns,omitempty"`
	End     *Tally   `json:"end,omitempty"`
}

// Writer writes a backup. Close ends it; a backup without that is none.
type Writer struct {
	age   io.WriteCloser
	gzip  *gzip.Writer
	sum   hash.Hash
	tally Tally
}

// NewWriter begins a backup for those who hold a key of a recipient.
func NewWriter(w io.Writer, h Head, to ...age.Recipient) (*Writer, error) {
	sealed, err := age.Encrypt(w, to...)
	if err != nil {
		return nil, err
	}
	out := &Writer{age: sealed, gzip: gzip.NewWriter(sealed), sum: sha256.New()}
	h.Format = Format
	return out, out.put(line{Head: &h})
}

func (w *Writer) put(v any) error {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return err
	}
	b = append(b, '\n')
	w.sum.Write(b)
	_, err = w.gzip.Write(b)
	return err
}

// Table begins a table.
func (w *Writer) Table(name string, columns []string) error {
	w.tally.Tables++
	return w.put(line{Table: name, Columns: columns})
}

// Row adds a row to the table: int64, string, []byte, bool or nil.
func (w *Writer) Row(values []any) error {
	w.tally.Rows++
	cells := make([]any, len(values))
	for i, v := range values {
		switch x := v.(type) {
		case []byte:
			cells[i] = map[string]string{"b": base64.StdEncoding.EncodeToString(x)}
		case string:
			cells[i] = x
			if !utf8.ValidString(x) {
				cells[i] = map[string]string{"t": base64.StdEncoding.EncodeToString([]byte(x))}
			}
		case nil, bool, int64:
			cells[i] = x
		default:
			return fmt.Errorf("archive: a value of the type %T", v)
		}
	}
	return w.put(cells)
}

// Close ends the backup and returns what it holds.
func (w *Writer) Close() (Tally, error) {
	w.tally.SHA256 = hex.EncodeToString(w.sum.Sum(nil))
	if err := w.put(line{End: &w.tally}); err != nil {
		return Tally{}, err
	}
	return w.tally, errors.Join(w.gzip.Close(), w.age.Close())
}

// Sink takes what a backup holds. Nil functions take nothing.
type Sink struct {
	Head  func(h Head) error
	Table func(name string, columns []string) error
	Row   func(values []any) error
}

// Read reads a backup to its end and verifies it. What the sink was given
// before an error must be thrown away.
func Read(r io.Reader, s Sink, keys ...age.Identity) (Head, Tally, error) {
	plain, err := age.Decrypt(r, keys...)
	if err != nil {
		return Head{}, Tally{}, fmt.Errorf("the backup cannot be opened with this key or passphrase: %w", err)
	}
	zip, err := gzip.NewReader(plain)
	if err != nil {
		return Head{}, Tally{}, broken(err)
	}
	rd := &reader{in: bufio.NewReaderSize(zip, 1<<20), sum: sha256.New(), sink: s}
	head, tally, err := rd.read()
	if err != nil {
		return Head{}, Tally{}, err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // age authenticates its last part only at the end
		return Head{}, Tally{}, broken(err)
	}
	return head, tally, nil
}

func broken(err error) error { return fmt.Errorf("%w (%w)", ErrBroken, err) }

type reader struct {
	in    *bufio.Reader
	sum   hash.Hash
	sink  Sink
	tally Tally
	width int // of rows; -1 outside a table
}

func (r *reader) line() ([]byte, error) {
	var whole []byte
	for {
		part, err := r.in.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case err == nil:
			return whole, nil
		case len(whole) > maxLine:
			return nil, broken(errors.New("a line is too long"))
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, broken(err)
		}
	}
}

func (r *reader) read() (Head, Tally, error) {
	var head *Head
	r.width = -1
	for {
		b, err := r.line()
		if err != nil {
			return Head{}, Tally{}, err
		}
		if b[0] == '[' {
			if err := r.row(b); err != nil {
				return Head{}, Tally{}, err
			}
			continue
		}
		var l line
		if err := json.Unmarshal(b, &l, json.RejectUnknownMembers(true)); err != nil {
			return Head{}, Tally{}, broken(err)
		}
		switch {
		case l.Head != nil && head == nil:
			head, err = l.Head, r.head(*l.Head)
		case head == nil:
			err = broken(errors.New("it has no head"))
		case l.End != nil:
			err = r.end(*l.End)
			return *head, r.tally, err
		case l.Table != "":
			r.tally.Tables++
			r.width = len(l.Columns)
			if r.sink.Table != nil {
				err = r.sink.Table(l.Table, l.Columns)
			}
		default:
			err = broken(errors.New("an unknown line"))
		}
		if err != nil {
			return Head{}, Tally{}, err
		}
		r.sum.Write(b)
	}
}

func (r *reader) head(h Head) error {
	if h.Format != Format {
		return fmt.Errorf("the backup has the form %.40q, which this version cannot read", h.Format)
	}
	if r.sink.Head != nil {
		return r.sink.Head(h)
	}
	return nil
}

func (r *reader) end(want Tally) error {
	r.tally.SHA256 = hex.EncodeToString(r.sum.Sum(nil))
	if r.tally != want {
		return broken(errors.New("its sum or number of rows is another"))
	}
	if _, err := r.in.ReadByte(); !errors.Is(err, io.EOF) {
		return broken(errors.New("there is something after its end"))
	}
	return nil
}

func (r *reader) row(b []byte) error {
	var cells []jsontext.Value
	if err := json.Unmarshal(b, &cells); err != nil {
		return broken(err)
	}
	if len(cells) != r.width {
		return broken(errors.New("a row has another number of values than its table has columns"))
	}
	values := make([]any, len(cells))
	for i, c := range cells {
		var err error
		if values[i], err = cell(c); err != nil {
			return broken(err)
		}
	}
	r.tally.Rows++
	r.sum.Write(b)
	if r.sink.Row != nil {
		return r.sink.Row(values)
	}
	return nil
}

func cell(c jsontext.Value) (any, error) {
	switch c.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return c.Kind() == 't', nil
	case '0':
		return strconv.ParseInt(string(bytes.TrimSpace(c)), 10, 64)
	case '"':
		var s string
		err := json.Unmarshal(c, &s)
		return s, err
	}
	var raw struct {
		B *[]byte `json:"b"`
		T *[]byte `json:"t"`
	}
	if err := json.Unmarshal(c, &raw, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	switch {
	case raw.B != nil:
		return *raw.B, nil
	case raw.T != nil:
		return string(*raw.T), nil
	}
	return nil, errors.New("a value of no kind")
}
