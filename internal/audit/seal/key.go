package seal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/storage"
)

// NewSealer returns a Sealer under a 32-byte key that another room derives
// (AES-256-GCM).
func NewSealer(key []byte) (Sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil || len(key) != 32 {
		return nil, ErrOptions.Say("the key that seals the log's key must have 32 bytes")
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return keySealer{aead}, err
}

type keySealer struct{ aead cipher.AEAD }

func (k keySealer) Seal(_ context.Context, plain []byte) ([]byte, error) {
	return k.aead.Seal(nil, nil, plain, []byte("countersign log key")), nil
}

func (k keySealer) Open(_ context.Context, sealed []byte) ([]byte, error) {
	return k.aead.Open(nil, nil, sealed, []byte("countersign log key"))
}

// keyRow is one of the log's keys.
type keyRow struct {
	n        int64
	vkey     string
	sealed   []byte
	rotation string // signed statement; "" for the first
	from     int64  // size at which it took over
}

func (k keyRow) origin() string {
	name, _, _ := strings.Cut(k.vkey, "+")
	return name
}

func (s store) keys(ctx context.Context) ([]keyRow, error) {
	rows, err := s.db.Query(ctx, `SELECT n, vkey, sealed, rotation FROM seal_keys ORDER BY n`)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []keyRow
	for rows.Next() {
		var k keyRow
		if err := rows.Scan(&k.n, &k.vkey, &k.sealed, &k.rotation); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		if len(out) > 0 {
			old, err := tlog.ParseKey(out[len(out)-1].vkey)
			if err != nil {
				return nil, ErrBroken.Say("key %d of the log cannot be read", k.n).With(err)
			}
			r, err := tlog.OpenRotation(k.rotation, old)
			if err != nil || r.Next != k.vkey {
				return nil, ErrBroken.Say("key %d of the log does not follow from the one before", k.n).With(err)
			}
			k.from = r.Size
		}
		out = append(out, k)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	if len(out) == 0 {
		return nil, ErrBroken.Say("the log's keys are missing from the database")
	}
	return out, nil
}

// Keys are the public keys of the log.
type Keys struct {
	Origin    string   `json:"origin" doc:"the log's name"`
	Key       string   `json:"key" doc:"the key that signs now (vkey)"`
	First     string   `json:"first" doc:"the log's first key: note it where an auditor finds it without us"`
	Rotations []string `json:"rotations" doc:"statements that lead from the first key to the present one, each signed by the key before and the next"`
}

// Keys returns the public keys of the log.
func (s *Service) Keys(ctx context.Context) (Keys, error) {
	rows, err := s.store.keys(ctx)
	if err != nil {
		return Keys{}, err
	}
	last := rows[len(rows)-1]
	k := Keys{Origin: last.origin(), Key: last.vkey, First: rows[0].vkey, Rotations: []string{}}
	for _, r := range rows[1:] {
		k.Rotations = append(k.Rotations, r.rotation)
	}
	return k, nil
}

// newKey makes a key for origin, sealed.
func (s *Service) newKey(ctx context.Context, origin string) (note.Signer, keyRow, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, keyRow{}, err
	}
	signer, vkey, err := tlog.NewSigner(origin, private)
	if err != nil {
		return nil, keyRow{}, ErrOptions.Say("%s", err)
	}
	sealed, err := s.o.Sealer.Seal(ctx, private.Seed())
	if err != nil {
		return nil, keyRow{}, fmt.Errorf("seal the log's key: %w", err)
	}
	return signer, keyRow{vkey: vkey, sealed: sealed}, nil
}

// openKey returns the signer of key n.
func (s *Service) openKey(ctx context.Context, keys []keyRow, n int64) (note.Signer, string, error) {
	for _, k := range keys {
		if k.n != n {
			continue
		}
		seed, err := s.o.Sealer.Open(ctx, k.sealed)
		if err != nil || len(seed) != ed25519.SeedSize {
			return nil, "", ErrBroken.Say("the log's key cannot be opened: it was sealed under another key than the one configured").With(err)
		}
		signer, vkey, err := tlog.NewSigner(k.origin(), ed25519.NewKeyFromSeed(seed))
		if err != nil || vkey != k.vkey {
			return nil, "", ErrBroken.Say("key %d of the log is not the one that it claims to be", n).With(err)
		}
		return signer, k.origin(), nil
	}
	return nil, "", ErrBroken.Say("key %d of the log is missing from the database", n)
}

func noRow(err error) (bool, error) {
	if storage.NoRows(err) {
		return true, nil
	}
	return false, err
}

// ensure makes the tree's row and first key if there are none.
func (s *Service) ensure(ctx context.Context) error {
	var name string
	err := s.db.QueryRow(ctx, `SELECT name FROM seal_head WHERE name = 'log'`).Scan(&name)
	none, err := noRow(err)
	if err != nil {
		return storage.ErrUnavailable.With(err)
	}
	if !none {
		return nil
	}
	origin := s.o.Origin
	if origin == "" {
		origin = "countersign.local/" + strings.ToLower(rand.Text()[:16])
	}
	_, k, err := s.newKey(ctx, origin)
	if err != nil {
		return err
	}
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		empty := tlog.EmptyRoot()
		err := tx.QueryRow(ctx, `INSERT INTO seal_head (name, size, root, key, blocked) VALUES ('log', 0, $1, 1, '')
			ON CONFLICT (name) DO NOTHING RETURNING name`, empty[:]).Scan(&name)
		if none, err := noRow(err); none || err != nil {
			return err // another replica was faster
		}
		if err := s.insertKey(ctx, tx, 1, k, ""); err != nil {
			return err
		}
		tx.Record(event("log.key_created", audit.System, "", map[string]string{"origin": origin, "key": k.vkey}))
		return nil
	})
}

func (s *Service) insertKey(ctx context.Context, tx *audit.Tx, n int64, k keyRow, rotation string) error {
	_, err := tx.Exec(ctx, `INSERT INTO seal_keys (n, vkey, sealed, rotation, created) VALUES ($1, $2, $3, $4, $5)`, n, k.vkey, k.sealed, rotation, storage.Micros(s.o.Now()))
	return err
}

// RotateKey replaces the log's key. The old key signs the new one, and both
// keep verifying what they signed. It is an event.
func (s *Service) RotateKey(ctx context.Context, by audit.Actor, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	s.working.Lock()
	defer s.working.Unlock()
	return s.replaceKey(ctx, `blocked = ''`, func(old keyRow) string { return old.origin() }, ErrRolledBack, func(tx *audit.Tx, d map[string]string) {
		tx.Record(event("log.key_rotated", by, reason, d))
	})
}

// Accept ends a block: what the database lost or changed is accepted by a
// person. The log goes on under a new origin and key, so that no key and no
// origin ever has two histories; checkpoints from before keep verifying.
func (s *Service) Accept(ctx context.Context, by audit.Actor, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	s.working.Lock()
	defer s.working.Unlock()
	err := s.replaceKey(ctx, `blocked <> ''`, nextOrigin, ErrNoRollback, func(tx *audit.Tx, d map[string]string) {
		if s.seen != nil {
			d["lost_origin"], d["lost_size"], d["lost_root"] = s.seen.Origin, decimal(s.seen.Size), s.seen.Root.String()
		}
		tx.Record(event("log.rollback_accepted", by, reason, d))
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	clear(s.alerted)
	s.mu.Unlock()
	if err := s.forget(ctx); err != nil {
		return err
	}
	s.blocked.Store(nil)
	return nil
}

// nextOrigin counts an origin's accepted losses: log, log/2, log/3.
func nextOrigin(old keyRow) string {
	origin := old.origin()
	if i := strings.LastIndexByte(origin, '/'); i > 0 {
		if n, err := strconv.Atoi(strings.TrimPrefix(origin[i+1:], "era-")); err == nil && strings.HasPrefix(origin[i+1:], "era-") {
			return origin[:i] + "/era-" + strconv.Itoa(n+1)
		}
	}
	return origin + "/era-2"
}

// replaceKey puts a new key in the place of the present one and clears a
// block, if the tree's row satisfies a condition.
func (s *Service) replaceKey(ctx context.Context, cond string, origin func(old keyRow) string, otherwise error, record func(*audit.Tx, map[string]string)) error {
	keys, err := s.store.keys(ctx)
	if err != nil {
		return err
	}
	old := keys[len(keys)-1]
	was, _, err := s.openKey(ctx, keys, old.n)
	if err != nil {
		return err
	}
	signer, next, err := s.newKey(ctx, origin(old))
	if err != nil {
		return err
	}
	s.tree = nil
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		var size int64
		err := tx.QueryRow(ctx, `UPDATE seal_head SET key = $1, blocked = '' WHERE name = 'log' AND key = $2 AND `+cond+` RETURNING size`, old.n+1, old.n).Scan(&size)
		none, err := noRow(err)
		if none {
			return otherwise
		}
		if err != nil {
			return err
		}
		rotation, err := tlog.SignRotation(tlog.Rotation{Origin: old.origin(), Size: size, Next: next.vkey}, was, signer)
		if err != nil {
			return err
		}
		if err := s.insertKey(ctx, tx, old.n+1, next, rotation); err != nil {
			return err
		}
		record(tx, map[string]string{"size": decimal(size), "replaces": old.vkey, "key": next.vkey, "rotation": rotation})
		return nil
	})
}

func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		return ErrReason
	}
	return nil
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func event(t audit.Type, by audit.Actor, reason string, detail map[string]string) audit.Event {
	b, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		b = nil // cannot be: our own strings
	}
	return audit.Event{Type: t, Actor: by, Object: "log", Reason: reason, Detail: b}
}

var errCosignature = errors.New("the witness answered without a valid cosignature")
