package secrets_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestKeyFileIsMadeOncePrivateAndWhole(t *testing.T) {
	path := keyPath(t)
	var wg sync.WaitGroup
	sealed := make([][]byte, 8)
	for i := range sealed {
		wg.Go(func() {
			k, err := secrets.OpenKeeper(ctx, path)
			if err != nil {
				t.Error(err)
				return
			}
			sealed[i], _ = k.Seal(ctx, []byte("same key"))
		})
	}
	wg.Wait()
	k, err := secrets.OpenKeeper(ctx, "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range sealed {
		if plain, err := k.Open(ctx, b); string(plain) != "same key" {
			t.Errorf("replicas that started together have several keys: %v", err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestBadKeyFilesAreRefused(t *testing.T) {
	good := keyPath(t)
	if _, err := secrets.OpenKeeper(ctx, good); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(good)
	for name, c := range map[string]struct {
		text string
		mode fs.FileMode
		says string
	}{
		"readable by the group": {string(text), 0o640, "chmod 600"},
		"readable by others":    {string(text), 0o604, "chmod 600"},
		"empty":                 {"", 0o600, "empty"},
		"cut short":             {string(text[:40]), 0o600, "not a whole key file"},
		"too long":              {string(text) + "AAAA", 0o600, "not a whole key file"},
		"something else":        {"-----BEGIN PRIVATE KEY-----\n", 0o600, "not a whole key file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			os.WriteFile(path, []byte(c.text), c.mode)
			os.Chmod(path, c.mode)
			_, err := secrets.OpenKeeper(ctx, path)
			if !errors.Is(err, secrets.ErrKeyFile) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			if len(c.text) > 30 && strings.Contains(err.Error(), c.text[19:30]) {
				t.Errorf("the error shows the key: %v", err)
			}
			if now, _ := os.ReadFile(path); string(now) != c.text {
				t.Error("the file was changed")
			}
		})
	}
	if _, err := secrets.OpenKeeper(ctx, t.TempDir()); !errors.Is(err, secrets.ErrKeyFile) {
		t.Errorf("a directory: %v", err)
	}
}

func TestBadKeeperURLsAreRefusedWithoutShowingThem(t *testing.T) {
	for _, url := range []string{"", "base64key://", "base64key://c2hvcnRzaG9ydA==", "base64key://smGbjm71Nxd1Ig5FS0wj9SlbzAIrnolCz9bQQ6uAhl4=?x=1",
		"nosuchkms://smGbjm71Nxd1Ig5FS0wj9SlbzAIrnolCz9bQQ6uAhl4=", "file://host/path", "file://"} {
		_, err := secrets.OpenKeeper(ctx, url)
		if !errors.Is(err, secrets.ErrKeeper) {
			t.Errorf("%s: %v", url, err)
		} else if strings.Contains(err.Error(), "smGb") || strings.Contains(err.Error(), "c2hv") {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func TestWrongOrCorruptKeysetsAreRefused(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, dsn)
		log, err := audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k")})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close(ctx)
		path := keyPath(t)
		open := func(key string) (*secrets.Service, error) {
			k, err := secrets.OpenKeeper(ctx, key)
			if err != nil {
				return nil, err
			}
			defer k.Close()
			return secrets.New(db, log, storage.NewWatcher(db, nil), k, secrets.Options{Matcher: inspection.New().Known()})
		}
		if _, err := open(path); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{keyPath(t), keyURL()} {
			if _, err := open(key); !errors.Is(err, secrets.ErrWrongKey) {
				t.Errorf("another key: %v", err)
			}
		}
		for _, q := range []string{
			`UPDATE secret_keys SET sealed = (SELECT sealed FROM secret_keys WHERE name = 'keyset') WHERE name = 'seed'`,
			`DELETE FROM secret_keys WHERE name = 'seed'`,
			`UPDATE secret_keys SET sealed = substr(sealed, 1, 30)`,
			`UPDATE secret_keys SET sealed = substr(sealed, 1, 0)`,
		} {
			exec(t, db, q)
			if _, err := open(path); !errors.Is(err, secrets.ErrWrongKey) {
				t.Errorf("after %s: %v", q, err)
			}
		}
	})
}

func FuzzKeyFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "key")
	if _, err := secrets.OpenKeeper(ctx, path); err != nil {
		f.Fatal(err)
	}
	good, _ := os.ReadFile(path)
	f.Add(good)
	f.Add([]byte("countersign-key-v1:"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := secrets.OpenKeeper(ctx, path); err != nil && !errors.Is(err, secrets.ErrKeyFile) {
			t.Fatal(err)
		}
	})
}
