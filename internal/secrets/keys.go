package secrets

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/tink-crypto/tink-go/v2/keyset"
)

// Keys are the keys outside the database: the one in use and, while that is
// being replaced, the next. It is a Keeper that seals with the one in use and
// opens with either.
type Keys struct {
	at, next string

	mu    sync.Mutex
	now   Keeper
	after Keeper // nil while there is none
}

// Where the next key file is, and the one that was replaced.
const (
	nextSuffix = ".next"
	oldSuffix  = ".old"
)

// OpenKeeper is OpenKeys without a next key in the configuration.
func OpenKeeper(ctx context.Context, at string) (*Keys, error) { return OpenKeys(ctx, at, "") }

// OpenKeys opens the key that at names: the path of a key file (also file:PATH),
// which is made with mode 0600 if it does not exist, or a gocloud.dev/secrets
// URL. This build knows base64key://KEY, where KEY is 32 bytes in URL-safe
// base64. next is the key that will replace it, if it is known already; that of
// a key file is beside it, with ".next" at its end. Errors never hold a URL: it
// may hold the key.
func OpenKeys(ctx context.Context, at, next string) (*Keys, error) {
	now, err := openKeeper(ctx, at)
	if err != nil {
		return nil, err
	}
	k := &Keys{at: at, next: next, now: now}
	if _, err := k.Next(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// Seal implements Keeper.
func (k *Keys) Seal(ctx context.Context, plain []byte) ([]byte, error) {
	k.mu.Lock()
	now := k.now
	k.mu.Unlock()
	return now.Seal(ctx, plain)
}

// Open implements Keeper.
func (k *Keys) Open(ctx context.Context, sealed []byte) ([]byte, error) {
	k.mu.Lock()
	now, after := k.now, k.after
	k.mu.Unlock()
	plain, err := now.Open(ctx, sealed)
	if err != nil && after != nil {
		if other, nerr := after.Open(ctx, sealed); nerr == nil {
			return other, nil
		}
	}
	return plain, err
}

// Close implements Keeper.
func (k *Keys) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.now.Close()
	if k.after != nil {
		err = errors.Join(err, k.after.Close())
	}
	return err
}

// nextFile returns where the next key file is; empty if the next key is none.
func (k *Keys) nextFile() string {
	at := k.next
	if at == "" {
		path, err := keyFilePath(k.at)
		if err != nil || path == "" {
			return ""
		}
		return path + nextSuffix
	}
	path, err := keyFilePath(at)
	if err != nil {
		return ""
	}
	return path
}

// Next returns the key that will replace the one in use; nil if there is none.
// A file may appear at any time.
func (k *Keys) Next(ctx context.Context) (Keeper, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var found Keeper
	var err error
	switch path := k.nextFile(); {
	case path != "":
		found, err = foundKeyFile(path)
	case k.next != "" && k.after == nil:
		found, err = openKeeper(ctx, k.next)
	default:
		return k.after, nil
	}
	if err != nil {
		return nil, err
	}
	k.after = found
	return found, nil
}

// make makes the next key if it is one that can be made, a file, and is not
// there yet.
func (k *Keys) make() error {
	path := k.nextFile()
	if path == "" {
		return nil
	}
	if err := makeKeyFile(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return keyFileError(path, err)
	}
	return nil
}

// adopt makes the next key the one in use if that, and not the present one,
// opens a keyset. The file of the one before is kept with ".old" at its end: old
// copies of the database need it.
func (k *Keys) adopt(ctx context.Context, sealed []byte) (bool, error) {
	next, err := k.Next(ctx)
	if err != nil {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	path, err := keyFilePath(k.at)
	switch {
	case err != nil || opensKeyset(ctx, k.now, sealed):
		return false, err
	case next != nil && opensKeyset(ctx, next, sealed):
		if path != "" && k.next == "" {
			if err := replaceKeyFile(path); err != nil {
				return false, keyFileError(path, err)
			}
		}
	case path != "": // another replica in the same directory may have been first
		if next, err = foundKeyFile(path); err != nil || next == nil || !opensKeyset(ctx, next, sealed) {
			return false, err
		}
	default:
		return false, nil
	}
	k.now, k.after = next, nil // the one before is not closed: who opens with it now may
	return true, nil
}

func opens(ctx context.Context, k Keeper, sealed []byte) bool {
	plain, err := k.Open(ctx, sealed)
	clear(plain)
	return err == nil
}

func opensKeyset(ctx context.Context, k Keeper, sealed []byte) bool {
	_, err := keyset.ReadWithContext(ctx, keyset.NewBinaryReader(bytes.NewReader(sealed)), keeperAEAD{k}, nil)
	return err == nil
}

// replaceKeyFile puts the next key file in the place of the one in use. At no
// time is there none: a server that finds none makes one.
func replaceKeyFile(path string) error {
	if err := os.Remove(path + oldSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, path+oldSuffix); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Rename(path+nextSuffix, path); err != nil && !errors.Is(err, fs.ErrNotExist) { // another replica in the same directory was first
		return err
	}
	return syncDir(filepath.Dir(path))
}

// kind says for people what sort of key it is, and nothing that may be secret.
func (k *Keys) kind() string {
	if path, err := keyFilePath(k.at); err == nil && path != "" {
		return "file " + path
	}
	scheme, _, _ := strings.Cut(k.at, "://")
	return scheme
}

// NewKeeper returns a Keeper whose key is 32 bytes, which it keeps.
func NewKeeper(key []byte) (Keeper, error) { return newKeyFile(bytes.Clone(key)) }

// Rewrap returns the sealed keyset of a row of a copied table, sealed with
// another keeper; nil for any other row.
func Rewrap(ctx context.Context, table string, row map[string]any, from, to Keeper) ([]byte, error) {
	sealed, _ := row["sealed"].([]byte)
	if table != "secret_keys" || row["name"] != keysetRow {
		return nil, nil
	}
	handle, err := keyset.ReadWithContext(ctx, keyset.NewBinaryReader(bytes.NewReader(sealed)), keeperAEAD{from}, nil)
	if err != nil {
		return nil, ErrWrongKey.With(err)
	}
	return sealKeyset(ctx, to, handle)
}
