package audit

import (
	"bytes"
	"context"
	"crypto/cipher"
	"database/sql"

	"github.com/countersign/countersign/internal/storage"
)

// bodyRow is a row of payloads and its key, believed in nothing.
type bodyRow struct {
	sn, n      int64
	name       string
	salt, body []byte
	key        int64 // 0: in plain, from before there were keys

	found     bool // the key's row is there
	destroyed bool
	aead      cipher.AEAD // nil if the key does not open
}

// What became of a body. Everything else is a problem.
const (
	bodyWhole  = ""
	bodyErased = "erased"
)

// plain returns salt and body of a payload of event, and in what state they are.
func (b *bodyRow) plain(event string) (plain []byte, state string) {
	switch {
	case b.salt == nil && b.body == nil:
		return nil, bodyErased
	case b.key == 0:
		return append(bytes.Clone(b.salt), b.body...), bodyWhole
	case !b.found:
		return nil, "cannot be read: its key is missing"
	case b.destroyed:
		return nil, bodyErased
	case b.aead == nil:
		return nil, "cannot be read: its key was altered"
	case b.salt != nil || len(b.body) < nonceSize:
		return nil, "was changed: it does not open"
	}
	plain, err := b.aead.Open(nil, b.body[:nonceSize], b.body[nonceSize:], payloadContext(event, b.name))
	if err != nil {
		return nil, "was changed: it does not open"
	}
	return plain, bodyWhole
}

// open returns the body of a payload of event, and in what state it is.
func (b *bodyRow) open(event string) ([]byte, string) {
	plain, state := b.plain(event)
	switch {
	case state != bodyWhole:
		return nil, state
	case b.key == 0:
		return bytes.Clone(b.body), bodyWhole
	case len(plain) < saltSize:
		return nil, "was changed: it does not open"
	}
	return plain[saltSize:], bodyWhole
}

// Opening is what the commitment to a payload was made of.
type Opening struct {
	Name       string
	Salt, Body []byte
	Erased     bool   // on purpose, or expired
	Problem    string // it is there but is not what was written
}

// Openings returns what a record's commitments were made of, in their order; of
// those of which only the commitment was kept (Digest), nothing.
func (l *Log) Openings(ctx context.Context, lane, sn int64, record []byte) ([]Opening, error) {
	ev, err := DecodeRecord(record)
	if err != nil || len(ev.Payloads) == 0 {
		return nil, err
	}
	var out []Opening
	err = l.bodies(ctx, lane, sn-1, sn, func(b bodyRow) {
		if levelOf(ev.Payloads, b.n) == Digest {
			return
		}
		o := Opening{Name: b.name}
		plain, state := b.plain(ev.ID)
		switch {
		case state == bodyErased:
			o.Erased = true
		case state == bodyWhole && len(plain) >= saltSize:
			o.Salt, o.Body = plain[:saltSize:saltSize], plain[saltSize:]
		case state == bodyWhole:
			o.Problem = "was changed: it does not open"
		default:
			o.Problem = state
		}
		out = append(out, o)
	})
	return out, err
}

// bodies calls fn for the payloads of a lane's records in (from, to], in order.
func (l *Log) bodies(ctx context.Context, lane, from, to int64, fn func(bodyRow)) error {
	rows, err := l.db.Query(ctx, `SELECT p.sn, p.n, p.name, p.salt, p.body, p.key, coalesce(k.id, 0), coalesce(k.kind, ''), coalesce(k.name, ''), k.sealed, coalesce(k.destroyed, 0)
		FROM payloads AS p LEFT JOIN payload_keys AS k ON k.id = p.key AND p.key <> 0
		WHERE p.lane = $1 AND p.sn > $2 AND p.sn <= $3 ORDER BY p.sn, p.n`, lane, from, to)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	opened := map[int64]cipher.AEAD{}
	for rows.Next() {
		b, o, id, destroyed := bodyRow{}, owner{}, int64(0), int64(0)
		var body, sealed sql.RawBytes // the row's own memory: what is plain is copied
		if err := rows.Scan(&b.sn, &b.n, &b.name, &b.salt, &body, &b.key, &id, &o.kind, &o.name, &sealed, &destroyed); err != nil {
			return storage.ErrUnavailable.With(err)
		}
		b.body, b.found, b.destroyed = body, id != 0, destroyed != 0 || (id != 0 && sealed == nil)
		if b.found && !b.destroyed {
			aead, ok := opened[id]
			if !ok {
				if aead, err = l.keys.unseal(id, o, sealed); err != nil {
					aead = nil
				}
				opened[id] = aead
			}
			b.aead = aead
		}
		fn(b)
	}
	if err := rows.Err(); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	return nil
}
