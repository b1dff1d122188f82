package storage_test

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// The write-ahead log goes back into the database while it is written without
// a pause, long before a commit would have to do it.
func TestTheWriteAheadLogStaysShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "countersign.db") // on a disk: memory is written faster than anything could be copied
	db := storagetest.Open(t, path)
	ctx := context.Background()
	if err := db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `CREATE TABLE filler (n INTEGER PRIMARY KEY, body BLOB)`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, 256<<10)
	rand.Read(body)
	var written, size int64
	for begun := int64(0); ; written += int64(len(body)) {
		if err := db.Tx(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO filler (body) VALUES ($1)`, body)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		size = max(size, info.Size())
		if begun == 0 && size < written { // what was written no longer fits: the log has begun anew
			begun = written
		}
		if begun > 0 && written > 2*begun {
			break
		}
		if size > 200<<20 {
			t.Fatalf("after %d bytes the log holds %d: nobody copies it back", written, size)
		}
	}
}
