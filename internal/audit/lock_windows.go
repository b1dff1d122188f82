package audit

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"

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
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if err == nil {
		return &fileLock{f}, nil
	}
	f.Close()
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
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
