package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json/v2"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/id"
)

// Limits of what one event may hold.
const (
	// MaxRecord is the largest record, in bytes: what an entry bundle of C2SP
	// tlog-tiles can hold. Events that are larger are made to fit.
	MaxRecord = 1<<16 - 1
	// maxOldRecord is the same of records written before that limit.
	maxOldRecord = 256 << 10
	// MaxPayload is how much of a payload is kept, in bytes after redaction.
	MaxPayload = 256 << 10
	saltSize   = 16
)

// Hash is a SHA-256 digest.
type Hash = [sha256.Size]byte

// LeafHash returns the RFC 6962 section 2.1 leaf hash of a record's bytes.
func LeafHash(record []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(record)
	return Hash(h.Sum(nil))
}

// ChainHash extends a lane's chain by one record. The chain of an empty lane
// is all zero.
func ChainHash(prev Hash, lane, sn int64, leaf Hash) Hash {
	var b [sha256.Size + 8 + 8 + sha256.Size]byte
	copy(b[:], prev[:])
	binary.BigEndian.PutUint64(b[32:], uint64(lane))
	binary.BigEndian.PutUint64(b[40:], uint64(sn))
	copy(b[48:], leaf[:])
	return sha256.Sum256(b[:])
}

// Commit returns the commitment to a payload's redacted body.
func Commit(salt, body []byte) Hash {
	h := sha256.New()
	h.Write(salt)
	h.Write(body)
	return Hash(h.Sum(nil))
}

// DecodeRecord reads the event in a record's bytes. It accepts members it does
// not know, so that older readers understand newer logs.
func DecodeRecord(raw []byte) (Event, error) {
	var ev Event
	if len(raw) > maxOldRecord {
		return Event{}, ErrEvent.Say("the record is larger than %d bytes", maxOldRecord)
	}
	if err := json.Unmarshal(raw, &ev); err != nil {
		return Event{}, ErrEvent.Say("the record is not an event").With(err)
	}
	return ev, nil
}

// entry is an event ready to be written: redacted, serialised, hashed.
type entry struct {
	ev       Event
	record   []byte
	leaf     Hash
	payloads []sealed
}

// sealed is a payload on its way to the disk. buf is nonce, salt and body; then,
// once it is locked under a key, nonce and ciphertext.
type sealed struct {
	name  string
	owner owner
	key   int64 // 0 until it is locked
	buf   []byte
}

func (e *entry) size() int64 {
	n := len(e.record)
	for _, p := range e.payloads {
		n += len(p.buf)
	}
	return int64(n)
}

// prepare does everything that needs no lane, in the caller's goroutine.
func (l *Log) prepare(ev Event, payloads []Payload) (*entry, error) {
	return l.prepareAs(ev, payloads, true)
}

// prepareAlone is prepare for an event that no payload can stand beside,
// because nobody waits for its key.
func (l *Log) prepareAlone(ev Event) (*entry, error) { return l.prepareAs(ev, nil, false) }

func (l *Log) prepareAs(ev Event, payloads []Payload, beside bool) (*entry, error) {
	ev.Schema = Schema
	if ev.Time.IsZero() {
		ev.Time = l.o.Now()
	}
	ev.Time = ev.Time.UTC().Truncate(time.Microsecond)
	if ev.ID == "" {
		ev.ID = id.At(id.Event, ev.Time)
	} else if !id.Is(id.Event, ev.ID) {
		return nil, ErrEvent.Say("%q is not an event identifier", cut(clean(ev.ID), 64))
	}
	if !validType(ev.Type) {
		return nil, ErrEvent.Say("the event type %q is not a noun, a dot and a past participle", cut(clean(string(ev.Type)), 64))
	}
	e := &entry{}
	payloads = bound(payloads)
	var err error
	if e.payloads, ev.Payloads, err = l.capture(payloads); err != nil {
		return nil, err
	}
	if err := l.redactEvent(&ev); err != nil {
		return nil, err
	}
	for i := range e.payloads {
		e.payloads[i].owner = l.keys.owner(ev.Agent, payloads[i].Subject)
	}
	e.ev = ev
	if err := l.fit(e, beside); err != nil {
		return nil, err
	}
	e.leaf = LeafHash(e.record)
	return e, nil
}

// personalRedactor is a Redactor that also knows personal data.
type personalRedactor interface {
	RedactPersonal(b []byte) []byte
}

// redact returns what level leaves of a body: no secret at any.
func (l *Log) redact(b []byte, level Level) []byte {
	b = l.o.Redactor.Redact(b)
	if p, ok := l.o.Redactor.(personalRedactor); ok && level != Full {
		b = p.RedactPersonal(b)
	}
	return b
}

const nonceSize = 12 // of AES-GCM

// capture redacts payloads, as far as their levels ask, and commits to them.
func (l *Log) capture(payloads []Payload) ([]sealed, []Commitment, error) {
	if len(payloads) == 0 {
		return nil, nil, nil
	}
	out, commitments := make([]sealed, len(payloads)), make([]Commitment, len(payloads))
	for i, p := range payloads {
		switch p.Level {
		case "", Redacted, Digest, Full:
		default:
			return nil, nil, ErrEvent.Say("a payload is kept full, redacted or digest, not %.20q", string(p.Level))
		}
		body, whole := l.redact(p.Body, p.Level), p.Whole
		if len(body) > MaxPayload && p.Level != Digest {
			if body = body[:MaxPayload]; whole == nil && (p.Size == 0 || p.Size == int64(len(p.Body))) {
				whole = p.Body
			}
		}
		name := cut(clean(string(l.o.Redactor.Redact([]byte(p.Name)))), 64)
		buf := make([]byte, nonceSize+saltSize, nonceSize+saltSize+len(body)+gcmTag)
		rand.Read(buf) // crypto/rand.Read never fails
		sum := Commit(buf[nonceSize:], body)
		if p.Level != Digest {
			buf = append(buf, body...)
		}
		out[i] = sealed{name: name, buf: buf}
		c := Commitment{Name: name, Digest: hex.EncodeToString(sum[:]), Size: p.Size}
		if c.Size == 0 {
			c.Size = int64(len(p.Body))
		}
		if p.Level != Redacted {
			c.Level = p.Level
		}
		if len(whole) > 0 {
			sum := Commit(buf[nonceSize:][:saltSize], whole)
			c.Whole = hex.EncodeToString(sum[:])
		}
		commitments[i] = c
	}
	return out, commitments, nil
}

const gcmTag = 16

func freshNonce() []byte {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // crypto/rand.Read never fails
	return nonce
}

func newEventID(t time.Time) string { return id.At(id.Event, t.UTC().Truncate(time.Microsecond)) }

// drop returns e without its payloads, for which no key could be made.
func (e *entry) drop() *entry {
	ev := e.ev
	ev.Payloads = nil
	record, err := canonical(ev)
	if err != nil {
		panic("audit: a serialised event cannot be serialised again: " + err.Error())
	}
	return &entry{ev: ev, record: record, leaf: LeafHash(record)}
}

// canonical serialises ev as RFC 8785 asks: its fields are declared in that
// order and Detail is canonical already. Numbers in Detail are doubles there:
// larger integers belong into strings.
func canonical(ev Event) ([]byte, error) {
	v, err := json.Marshal(ev)
	if err != nil {
		return nil, ErrEvent.With(err)
	}
	return v, nil
}

func validType(t Type) bool {
	noun, verb, ok := strings.Cut(string(t), ".")
	if !ok || noun == "" || verb == "" || len(t) > 64 {
		return false
	}
	return strings.Trim(string(t), "abcdefghijklmnopqrstuvwxyz0123456789_.") == "" && !strings.HasSuffix(verb, ".")
}
