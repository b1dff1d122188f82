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
	// MaxRecord is the largest event, serialised, in bytes.
	MaxRecord = 256 << 10
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
	if len(raw) > MaxRecord {
		return Event{}, ErrEvent.Say("the record is larger than %d bytes", MaxRecord)
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

type sealed struct {
	name       string
	salt, body []byte
}

func (e *entry) size() int64 {
	n := len(e.record)
	for _, p := range e.payloads {
		n += len(p.body)
	}
	return int64(n)
}

// prepare does everything that needs no lane, in the caller's goroutine.
func (l *Log) prepare(ev Event, payloads []Payload) (*entry, error) {
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
	e := &entry{payloads: l.seal(payloads)}
	ev.Payloads = make([]Commitment, len(payloads))
	for i, p := range e.payloads {
		size := payloads[i].Size
		if size == 0 {
			size = int64(len(payloads[i].Body))
		}
		sum := Commit(p.salt, p.body)
		ev.Payloads[i] = Commitment{Name: p.name, Digest: hex.EncodeToString(sum[:]), Size: size}
	}
	if len(payloads) == 0 {
		ev.Payloads = nil
	}
	if err := l.redactEvent(&ev); err != nil {
		return nil, err
	}
	record, err := canonical(ev)
	if err != nil {
		return nil, err
	}
	e.ev, e.record, e.leaf = ev, record, LeafHash(record)
	return e, nil
}

func (l *Log) seal(payloads []Payload) []sealed {
	if len(payloads) == 0 {
		return nil
	}
	out := make([]sealed, len(payloads))
	salts := make([]byte, saltSize*len(payloads))
	rand.Read(salts) // crypto/rand.Read never fails
	for i, p := range payloads {
		body := l.o.Redactor.Redact(p.Body)
		if len(body) > MaxPayload {
			body = body[:MaxPayload]
		}
		if body == nil {
			body = []byte{}
		}
		name := clean(string(l.o.Redactor.Redact([]byte(p.Name))))
		out[i] = sealed{name: cut(name, 64), salt: salts[i*saltSize : (i+1)*saltSize], body: body}
	}
	return out
}

// canonical serialises ev as RFC 8785 asks: its fields are declared in that
// order and Detail is canonical already. Numbers in Detail are doubles there:
// larger integers belong into strings.
func canonical(ev Event) ([]byte, error) {
	v, err := json.Marshal(ev)
	if err != nil {
		return nil, ErrEvent.With(err)
	}
	if len(v) > MaxRecord {
		return nil, ErrEvent.Say("the event is larger than %d bytes; put content into payloads", MaxRecord)
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
