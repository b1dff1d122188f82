package audit

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/storage"
)

// Keeper seals the log's key. Its own key is outside the database.
type Keeper interface {
	Seal(ctx context.Context, plain []byte) ([]byte, error)
	Open(ctx context.Context, sealed []byte) ([]byte, error)
}

// The kinds of keys: the log's, which seals the others, and those of payloads.
const (
	kindLog     = "log"
	kindAgent   = "agent"
	kindSubject = "subject"
)

const (
	logKeyID  = 1 // all others are larger than 32 bits
	keyBytes  = 32
	logKeyTag = "countersign log key v1\x00" // tells it from what else the keeper seals

	// erasures is the version that is bumped when payloads go.
	erasures = "payload_erasures"
)

// maxKeys bounds the keys that a process keeps ready.
const maxKeys = 16 << 10

// owner says under whose key a payload is: an agent's by name, or a subject's
// by the keyed digest of its name, which is forgotten with the key.
type owner struct{ kind, name string }

type dataKey struct {
	id   int64
	aead cipher.AEAD
}

// keyring makes, finds and opens the keys of payloads.
type keyring struct {
	db       *storage.DB
	now      func() time.Time
	root     []byte
	sealer   cipher.AEAD // seals the keys of payloads
	subjects []byte      // the key of subjects' digests

	making chan struct{} // held while a key is looked for in the store

	mu      sync.RWMutex
	ready   map[owner]*dataKey
	changes uint64 // how often ready was emptied
	version int64  // of the erasures that ready knows
}

// openKeyring opens the log's key, and makes it at the first start.
func openKeyring(ctx context.Context, db *storage.DB, keeper Keeper, now func() time.Time) (*keyring, error) {
	k := &keyring{db: db, now: now, making: make(chan struct{}, 1), ready: map[owner]*dataKey{}}
	sealed, err := k.sealedRoot(ctx)
	if storage.NoRows(err) {
		if err = k.makeRoot(ctx, keeper); err != nil {
			return nil, err
		}
		sealed, err = k.sealedRoot(ctx)
	}
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	plain, err := keeper.Open(ctx, sealed)
	if err != nil {
		return nil, ErrKeeper.With(err)
	}
	root, ours := strings.CutPrefix(string(plain), logKeyTag)
	clear(plain)
	if !ours || len(root) != keyBytes {
		return nil, ErrKeeper.Say("what stands in place of the log's key is something else: restore the table payload_keys")
	}
	k.root = []byte(root)
	k.sealer, k.subjects = newAEAD(k.derive("payload keys")), k.derive("subjects")
	return k, k.refresh(ctx)
}

func (k *keyring) sealedRoot(ctx context.Context) (sealed []byte, err error) {
	err = k.db.QueryRow(ctx, `SELECT sealed FROM payload_keys WHERE id = $1 AND kind = $2`, logKeyID, kindLog).Scan(&sealed)
	return sealed, err
}

// makeRoot makes the log's key. Of replicas that start together the first to
// commit wins.
func (k *keyring) makeRoot(ctx context.Context, keeper Keeper) error {
	var used bool
	if err := k.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM payload_keys WHERE id <> $1) OR EXISTS (SELECT 1 FROM payloads WHERE key > 0)`, logKeyID).Scan(&used); err != nil {
		return storage.ErrUnavailable.With(err)
	}
	if used {
		return ErrKeeper.Say("the log's key is missing from the database: restore the table payload_keys; without it no payload can be read")
	}
	plain := append([]byte(logKeyTag), make([]byte, keyBytes)...)
	rand.Read(plain[len(logKeyTag):]) // crypto/rand.Read never fails
	defer clear(plain)
	sealed, err := keeper.Seal(ctx, plain)
	if err != nil {
		return ErrKeeper.Say("the key could not seal the log's key; check that it may be used to encrypt").With(err)
	}
	return unavailable(k.db.Tx(ctx, func(tx *storage.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO versions (name, version) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING`, erasures); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO payload_keys (id, kind, name, sealed, created, destroyed) VALUES ($1, $2, '', $3, $4, 0) ON CONFLICT DO NOTHING`,
			logKeyID, kindLog, sealed, storage.Micros(k.now()))
		return err
	}))
}

// RewrapTx seals the log's key, which seals those of all payloads, with another
// keeper. From the commit of tx on only that one opens the log.
func (l *Log) RewrapTx(ctx context.Context, tx *Tx, keeper Keeper) error {
	plain := append([]byte(logKeyTag), l.keys.root...)
	defer clear(plain)
	sealed, err := keeper.Seal(ctx, plain)
	if err != nil {
		return ErrKeeper.Say("the key could not seal the log's key; check that it may be used to encrypt").With(err)
	}
	return tx.ExecOne(ctx, `UPDATE payload_keys SET sealed = $1 WHERE id = $2 AND kind = $3`, sealed, logKeyID, kindLog)
}

// Rewrap returns the sealed log key of a row of a copied table, sealed with
// another keeper; nil for any other row.
func Rewrap(ctx context.Context, table string, row map[string]any, from, to Keeper) ([]byte, error) {
	sealed, _ := row["sealed"].([]byte)
	if table != "payload_keys" || row["kind"] != kindLog {
		return nil, nil
	}
	plain, err := from.Open(ctx, sealed)
	if err != nil {
		return nil, ErrKeeper.With(err)
	}
	defer clear(plain)
	return to.Seal(ctx, plain)
}

// derive returns 32 bytes for label (HKDF-SHA256, RFC 5869).
func (k *keyring) derive(label string) []byte {
	key, err := hkdf.Key(sha256.New, k.root, nil, "countersign log/"+label, keyBytes)
	if err != nil {
		panic("audit: HKDF refuses 32 bytes: " + err.Error()) // it can only refuse more than 8160
	}
	return key
}

func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("audit: AES refuses 32 bytes: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("audit: GCM refuses AES: " + err.Error())
	}
	return aead
}

// owner returns under whose key a payload belongs.
func (k *keyring) owner(agent, subject string) owner {
	subject = strings.ToLower(strings.TrimSpace(subject))
	if subject == "" {
		return owner{kindAgent, agent}
	}
	m := hmac.New(sha256.New, k.subjects)
	m.Write([]byte(subject))
	return owner{kindSubject, hex.EncodeToString(m.Sum(nil))}
}

func (k *keyring) cached(o owner) (*dataKey, uint64) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.ready[o], k.changes
}

// forget drops every key, because some may have been destroyed.
func (k *keyring) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.ready)
	k.changes++
}

// refresh forgets the keys if anything was erased since it last looked.
func (k *keyring) refresh(ctx context.Context) error {
	v, err := erasureVersion(ctx, k.db)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if v != k.version {
		clear(k.ready)
		k.changes++
		k.version = v
	}
	return nil
}

// get returns the live key of o, and makes it if there is none. It must not be
// called inside a transaction: SQLite has one writer.
func (k *keyring) get(ctx context.Context, o owner) (*dataKey, error) {
	if dk, _ := k.cached(o); dk != nil {
		return dk, nil
	}
	select {
	case k.making <- struct{}{}:
		defer func() { <-k.making }()
	case <-ctx.Done():
		return nil, storage.ErrUnavailable.With(context.Cause(ctx))
	}
	dk, changes := k.cached(o)
	if dk != nil {
		return dk, nil
	}
	dk, err := k.find(ctx, k.db, o)
	if storage.NoRows(err) {
		err = k.db.Tx(ctx, func(tx *storage.Tx) error {
			var err error
			dk, err = k.getTx(ctx, tx, o)
			return err
		})
	}
	if err != nil {
		return nil, unavailable(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changes == changes {
		for old := range k.ready {
			if len(k.ready) < maxKeys {
				break
			}
			delete(k.ready, old) // any: maps begin anywhere
		}
		k.ready[o] = dk
	}
	return dk, nil
}

// getTx is get inside a transaction.
func (k *keyring) getTx(ctx context.Context, tx *storage.Tx, o owner) (*dataKey, error) {
	for range 4 {
		dk, err := k.find(ctx, tx, o)
		if !storage.NoRows(err) {
			return dk, err
		}
		var key, random [keyBytes]byte
		rand.Read(key[:]) // crypto/rand.Read never fails
		rand.Read(random[:])
		id := int64(binary.BigEndian.Uint64(random[:])>>16 | 1<<47)
		nonce := random[8 : 8+k.sealer.NonceSize()]
		sealed := k.sealer.Seal(nonce, nonce, key[:], keyContext(id, o))
		clear(key[:])
		if _, err := tx.Exec(ctx, `INSERT INTO payload_keys (id, kind, name, sealed, created, destroyed) VALUES ($1, $2, $3, $4, $5, 0) ON CONFLICT DO NOTHING`,
			id, o.kind, o.name, sealed, storage.Micros(k.now())); err != nil {
			return nil, err
		}
	}
	return nil, storage.ErrUnavailable.Say("no key could be made for a payload; others keep making and destroying it")
}

type rower interface {
	QueryRow(ctx context.Context, q string, args ...any) *sql.Row
}

func (k *keyring) find(ctx context.Context, db rower, o owner) (*dataKey, error) {
	var id int64
	var sealed []byte
	err := db.QueryRow(ctx, `SELECT id, sealed FROM payload_keys WHERE kind = $1 AND name = $2 AND destroyed = 0`, o.kind, o.name).Scan(&id, &sealed)
	if err != nil {
		return nil, err
	}
	aead, err := k.unseal(id, o, sealed)
	if err != nil {
		return nil, err
	}
	return &dataKey{id, aead}, nil
}

// unseal opens the key of a row, if the row is as it was written.
func (k *keyring) unseal(id int64, o owner, sealed []byte) (cipher.AEAD, error) {
	n := k.sealer.NonceSize()
	if len(sealed) < n {
		return nil, ErrKeeper.Say("key %x of the log's payloads was altered: restore its row of the table payload_keys", id)
	}
	key, err := k.sealer.Open(nil, sealed[:n], sealed[n:], keyContext(id, o))
	if err != nil || len(key) != keyBytes {
		return nil, ErrKeeper.Say("key %x of the log's payloads was altered: restore its row of the table payload_keys", id)
	}
	defer clear(key)
	return newAEAD(key), nil
}

// keyContext binds a sealed key to its row.
func keyContext(id int64, o owner) []byte {
	out := binary.BigEndian.AppendUint64([]byte("countersign payload key v1\x00"), uint64(id))
	return append(append(append(out, o.kind...), 0), o.name...)
}

// payloadContext binds a sealed payload to its event and name.
func payloadContext(event, name string) []byte {
	out := make([]byte, 0, 128)
	return append(append(append(append(out, "countersign payload v1\x00"...), event...), 0), name...)
}

func erasureVersion(ctx context.Context, db *storage.DB) (v int64, err error) {
	err = db.QueryRow(ctx, `SELECT version FROM versions WHERE name = $1`, erasures).Scan(&v)
	if err != nil && !storage.NoRows(err) {
		return 0, storage.ErrUnavailable.With(err)
	}
	return v, nil
}

// Derive returns 32 bytes for label: a key for what is kept about the log, such
// as its index. It is the same on every replica and after every start.
func (l *Log) Derive(label string) []byte { return l.keys.derive("derive/" + label) }

// Erasures returns a number that changes whenever payloads go.
func (l *Log) Erasures(ctx context.Context) (int64, error) { return erasureVersion(ctx, l.db) }

// Unerased reports whether Erasures is still v, and keeps it so until tx ends:
// for who writes down, in tx, what was read of payloads before.
func (l *Log) Unerased(ctx context.Context, tx *storage.Tx, v int64) (bool, error) {
	res, err := tx.Exec(ctx, `UPDATE versions SET version = version WHERE name = $1 AND version = $2`, erasures, v)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}
