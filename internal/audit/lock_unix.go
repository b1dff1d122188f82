//go:build unix

package audit

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/countersign/countersign/internal/storage"
)

// fileLock shows that no other process has the database file open as a log. It
// ends with its process, however that ends.
type fileLock struct{ f *os.File }

func lockFile(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return &fileLock{f}, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrInUse
	}
	return nil, storage.ErrUnavailable.With(err)
}

// Unlock releases the lock. It accepts a nil lock.
func (l *fileLock) Unlock() error {
	if l == nil {
		return nil
	}
	return l.f.Close()
}
