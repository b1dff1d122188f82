package secrets

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// A key file is one line: this prefix and 32 bytes in base64.
const (
	keyFilePrefix = "countersign-key-v1:"
	keyFileBytes  = 32
	keyFileMost   = 256
)

// keyFile is a Keeper whose key is in a file.
type keyFile struct{ aead tink.AEAD }

// sealedBy tells a keyset from anything else sealed under the same key.
var sealedBy = []byte("countersign keyset v1")

func (k keyFile) Seal(_ context.Context, plain []byte) ([]byte, error) {
	return k.aead.Encrypt(plain, sealedBy)
}

func (k keyFile) Open(_ context.Context, sealed []byte) ([]byte, error) {
	return k.aead.Decrypt(sealed, sealedBy)
}

func (k keyFile) Close() error { return nil }

func openKeyFile(path string) (Keeper, error) {
	key, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeKeyFile(path); err == nil || errors.Is(err, fs.ErrExist) {
			key, err = readKeyFile(path) // another replica may have been first
		}
	}
	if err != nil {
		return nil, keyFileError(path, err)
	}
	return newKeyFile(key)
}

// foundKeyFile is openKeyFile for a file that is not made: nil if there is none.
func foundKeyFile(path string) (Keeper, error) {
	key, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, keyFileError(path, err)
	}
	return newKeyFile(key)
}

func newKeyFile(key []byte) (Keeper, error) {
	defer clear(key)
	aead, err := subtle.NewAESGCM(key)
	if err != nil {
		return nil, fmt.Errorf("secrets: key file: %w", err)
	}
	return keyFile{aead}, nil
}

func keyFileError(path string, err error) error {
	if errors.Is(err, ErrKeyFile) {
		return err
	}
	return ErrKeyFile.Say("the key file %s cannot be read or made: %v", path, err)
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, ErrKeyFile.Say("%s is not a regular file", path)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 { // there, modes say nothing
		return nil, ErrKeyFile.Say("the key file %s can be read by others (mode %04o): run chmod 600 %s, and put the secrets again if others may have read it",
			path, info.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, keyFileMost))
	defer clear(text)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, ErrKeyFile.Say("the key file %s is empty; restore it, or remove it if no secret was stored yet", path)
	}
	return parseKeyFile(path, text)
}

func parseKeyFile(path string, text []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(bytes.TrimSpace(text), []byte(keyFilePrefix))
	key := make([]byte, base64.RawURLEncoding.DecodedLen(len(body)))
	n, err := base64.RawURLEncoding.Decode(key, body)
	if !ok || err != nil || n != keyFileBytes {
		return nil, ErrKeyFile.Say("%s is not a whole key file of Countersign; restore it, or remove it if no secret was stored yet", path)
	}
	return key, nil
}

// makeKeyFile makes a key file that is there whole or not at all, and fails
// with fs.ErrExist if there is one.
func makeKeyFile(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var key [keyFileBytes]byte
	rand.Read(key[:]) // crypto/rand.Read never fails
	text := append(base64.RawURLEncoding.AppendEncode([]byte(keyFilePrefix), key[:]), '\n')
	defer clear(key[:])
	defer clear(text)
	temp := path + ".new-" + rand.Text()[:8]
	if err := writeSynced(temp, text); err != nil {
		os.Remove(temp)
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, path); err != nil { // unlike a rename, it never replaces
		return err
	}
	return syncDir(dir)
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // directories cannot be synced there
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
