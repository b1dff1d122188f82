package secrets

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// master is what the keeper opens: the AEAD of the keyset and the seed of
// derived keys. It is not changed; a rekey makes another.
type master struct {
	aead       tink.AEAD
	former     tink.AEAD // of the generation before, for rows that were read before it ended; nil at the start
	seed       []byte
	handle     *keyset.Handle
	generation int64  // of the keyset, one more with each change
	sealed     []byte // the keyset as it stands in the database
}

const (
	keysetRow = "keyset"
	seedRow   = "seed"
	seedBytes = 32
)

var seedContext = []byte("countersign seed v1")

// openMaster loads the keyset and the seed, and makes them at the first start.
// Replicas that start together agree: the first to commit wins.
func openMaster(ctx context.Context, db *storage.DB, log *audit.Log, keeper *Keys, now func() time.Time) (*master, error) {
	rows, generation, err := keyRows(ctx, db)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		err := makeMaster(ctx, log, keeper, now())
		if err != nil && !storage.Duplicate(err) {
			return nil, err
		}
		if rows, generation, err = keyRows(ctx, db); err != nil {
			return nil, err
		}
	}
	if _, err := keeper.adopt(ctx, rows[keysetRow]); err != nil {
		return nil, err
	}
	m, err := loadMaster(ctx, keeper, rows, generation)
	if errors.Is(err, ErrWrongKey) {
		return nil, replacedKey(ctx, db, err)
	}
	return m, err
}

// replacedKey says, if so it is, that the key that does not open the keyset was
// replaced.
func replacedKey(ctx context.Context, db *storage.DB, err error) error {
	done, rerr := rekeys(ctx, db, `WHERE phase = $1 ORDER BY started DESC LIMIT 1`, PhaseDone)
	if rerr != nil || len(done) == 0 {
		return err
	}
	return ErrWrongKey.Say("the key does not open this database's keyset, whose key was replaced on %s (%s): give this replica the new key, as the others have it",
		done[0].Finished.Format(time.DateOnly), done[0].ID).With(err)
}

func makeMaster(ctx context.Context, log *audit.Log, keeper Keeper, now time.Time) error {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("secrets: make keyset: %w", err)
	}
	sealedKeys, err := sealKeyset(ctx, keeper, handle)
	if err != nil {
		return err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return fmt.Errorf("secrets: use keyset: %w", err)
	}
	seed := make([]byte, seedBytes)
	rand.Read(seed) // crypto/rand.Read never fails
	defer clear(seed)
	sealedSeed, err := primitive.Encrypt(seed, seedContext)
	if err != nil {
		return fmt.Errorf("secrets: seal seed: %w", err)
	}
	return log.Change(ctx, func(tx *audit.Tx) error {
		for name, sealed := range map[string][]byte{keysetRow: sealedKeys, seedRow: sealedSeed} {
			if err := insertKey(ctx, tx, name, sealed, now); err != nil {
				return err
			}
		}
		tx.Record(audit.Event{Type: "secret.keyset_created", Actor: audit.System, Object: "secrets", Reason: "first start"})
		return nil
	})
}

func sealKeyset(ctx context.Context, keeper Keeper, handle *keyset.Handle) ([]byte, error) {
	var sealed bytes.Buffer
	if err := handle.WriteWithContext(ctx, keyset.NewBinaryWriter(&sealed), keeperAEAD{keeper}, nil); err != nil {
		return nil, ErrKeeper.Say("the key could not seal the keyset; check that it may be used to encrypt").With(err)
	}
	return sealed.Bytes(), nil
}

func loadMaster(ctx context.Context, keeper Keeper, rows map[string][]byte, generation int64) (*master, error) {
	handle, err := keyset.ReadWithContext(ctx, keyset.NewBinaryReader(bytes.NewReader(rows[keysetRow])), keeperAEAD{keeper}, nil)
	if err != nil {
		return nil, ErrWrongKey.With(err)
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, ErrWrongKey.With(err)
	}
	seed, err := primitive.Decrypt(rows[seedRow], seedContext)
	if err != nil || len(seed) != seedBytes {
		return nil, ErrWrongKey.Say("the seed of derived keys does not belong to this database's keyset: restore the table secret_keys").With(err)
	}
	return &master{aead: primitive, seed: seed, handle: handle, generation: generation, sealed: rows[keysetRow]}, nil
}

// decrypt opens what any key of this keyset sealed, or one of the generation
// before it.
func (m *master) decrypt(sealed, context []byte) ([]byte, error) {
	plain, err := m.aead.Decrypt(sealed, context)
	if err != nil && m.former != nil {
		if plain, ferr := m.former.Decrypt(sealed, context); ferr == nil {
			return plain, nil
		}
	}
	return plain, err
}

// derive returns 32 bytes for label (HKDF-SHA256, RFC 5869).
func (m *master) derive(label string) []byte {
	key, err := hkdf.Key(sha256.New, m.seed, nil, "countersign derive v1/"+label, 32)
	if err != nil {
		panic("secrets: HKDF refuses 32 bytes: " + err.Error()) // it can only refuse more than 8160
	}
	return key
}

// keeperAEAD lets Tink seal a keyset with a keeper. Keepers bind no associated
// data; there is none.
type keeperAEAD struct{ keeper Keeper }

func (k keeperAEAD) EncryptWithContext(ctx context.Context, plain, _ []byte) ([]byte, error) {
	return k.keeper.Seal(ctx, plain)
}

func (k keeperAEAD) DecryptWithContext(ctx context.Context, sealed, _ []byte) ([]byte, error) {
	return k.keeper.Open(ctx, sealed)
}

// seal seals v for the row that s describes.
func (m *master) seal(s Secret, v Value) ([]byte, error) {
	sealed, err := m.aead.Encrypt(v.Expose(), s.context())
	if err != nil {
		return nil, fmt.Errorf("secrets: seal %s: %w", s.Name, err)
	}
	return sealed, nil
}

// open opens what seal made, if s is the same to the letter.
func (m *master) open(s Secret, sealed []byte) (Value, error) {
	plain, err := m.decrypt(sealed, s.context())
	if err != nil {
		return Value{}, ErrSealed.Say("the secret %s cannot be opened: it was sealed under another key or its row was altered; put it again", s.Name)
	}
	return boxed(plain), nil
}

// context is the associated data of a sealed value: everything that says whose
// it is and where it may go. Each part has its length before it, so that no
// two rows share one.
func (s Secret) context() []byte {
	out := []byte("countersign secret v1")
	part := func(p string) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
		out = append(out, p...)
	}
	part(s.ID)
	part(s.Name)
	part(s.Connection)
	out = binary.BigEndian.AppendUint64(out, uint64(s.Version))
	for _, h := range s.Hosts {
		part(h)
	}
	if s.Kind == "" && s.Source == "" && len(s.Settings) == 0 && len(s.Rotation) == 0 {
		return out // as it was before there were these
	}
	out = append(out, "\x00more v1"...)
	part(s.Kind)
	part(s.Source)
	for _, m := range []map[string]string{s.Settings, s.Rotation} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(m)))
		for _, k := range slices.Sorted(maps.Keys(m)) {
			part(k)
			part(m[k])
		}
	}
	return out
}
