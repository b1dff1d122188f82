package server

import (
	"context"
	"io"
	"os"
	"time"

	"filippo.io/age"

	"github.com/countersign/countersign/internal/backup"
	"github.com/countersign/countersign/internal/backup/archive"
	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// Restore fills the empty database of a configuration from a backup. No server
// may be at work on it.
func Restore(ctx context.Context, cfg config.Config, from io.Reader, open []age.Identity) (archive.Head, archive.Tally, error) {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return archive.Head{}, archive.Tally{}, err
	}
	keys, err := secrets.OpenKeys(ctx, cfg.Key, cfg.KeyNext)
	if err != nil {
		return archive.Head{}, archive.Tally{}, err
	}
	defer func() { _ = keys.Close() }() // it only forgets the key
	db, err := storage.Open(ctx, cfg.Store)
	if err != nil {
		return archive.Head{}, archive.Tally{}, err
	}
	defer db.Close()
	return backup.Restore(ctx, db, keys, time.Now(), from, open...)
}
