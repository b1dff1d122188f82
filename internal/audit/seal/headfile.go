package seal

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/tlog"
)

// maxHeadFile is the largest head file that is read, in bytes.
const maxHeadFile = 64 << 10

// parseNote reads the checkpoint of a signed note without its signatures.
func parseNote(msg string) (tlog.Checkpoint, error) {
	i := strings.LastIndex(msg, "\n\n")
	if i < 0 {
		return tlog.Checkpoint{}, errors.New("not a signed note")
	}
	return tlog.ParseCheckpoint(msg[:i+1])
}

// readHeadFile reads the newest checkpoint kept outside the database.
func (s *Service) readHeadFile() error {
	if s.o.HeadFile == "" {
		return nil
	}
	info, err := os.Stat(s.o.HeadFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Size() > maxHeadFile {
		err = errors.New("it is too large")
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(s.o.HeadFile)
	}
	if err != nil {
		return ErrOptions.Say("the log's newest checkpoint cannot be read from %s", s.o.HeadFile).With(err)
	}
	c, err := parseNote(string(b))
	if err != nil {
		return ErrOptions.Say("%s does not hold a checkpoint; if it was damaged, compare the log with another copy of its checkpoint, then remove the file", s.o.HeadFile).With(err)
	}
	s.seen, s.seenNote = &c, string(b)
	return nil
}

// remember keeps the newest checkpoint in memory and in the head file.
func (s *Service) remember(ctx context.Context, c tlog.Checkpoint, note string) {
	s.seen, s.seenNote = &c, note
	if s.o.HeadFile == "" {
		return
	}
	if err := replaceFile(s.o.HeadFile, []byte(note)); err != nil {
		s.alert(ctx, Alert{"log.head_file", "log", "The log's newest checkpoint cannot be kept outside the database", "a restored database would not be noticed: " + err.Error()})
	}
}

// forget puts the database's newest checkpoint in the place of the one that
// was kept outside it.
func (s *Service) forget(ctx context.Context) error {
	s.seen, s.seenNote = nil, ""
	c, err := s.store.newest(ctx)
	if err != nil {
		return err
	}
	if c != nil {
		cp, err := parseNote(c.Note)
		if err != nil {
			return broken(err)
		}
		s.remember(ctx, cp, c.Note)
		return nil
	}
	if s.o.HeadFile == "" {
		return nil
	}
	if err := os.Remove(s.o.HeadFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ErrOptions.Say("the old checkpoint in %s cannot be removed", s.o.HeadFile).With(err)
	}
	return nil
}

// replaceFile writes a file so that after a crash it is whole, old or new.
func replaceFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".checkpoint-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // nothing more can be done about it
		}
	}()
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// checkSeen compares the database with the newest checkpoint that this process
// has seen. If the database lost or rewrote something it is blocked, for all
// replicas, until a person accepts that.
func (s *Service) checkSeen(ctx context.Context, h head, keys []keyRow) error {
	if s.seen == nil {
		return nil
	}
	why, err := s.contradiction(ctx, h, keys)
	if err != nil || why == "" {
		return err
	}
	s.blocked.Store(&why) // whether or not the database can be told
	if err := s.block(ctx, h, why); err != nil {
		return err
	}
	return ErrRolledBack.Say("%s", why)
}

// contradiction returns how the database contradicts what was seen, "" if it
// does not.
func (s *Service) contradiction(ctx context.Context, h head, keys []keyRow) (string, error) {
	signed, limit := false, int64(-1)
	for i, k := range keys {
		ks, err := tlog.OpenKeys(k.vkey, nil)
		if err != nil {
			return "", ErrBroken.Say("key %d of the log cannot be read", k.n).With(err)
		}
		if _, err := tlog.OpenCheckpoint([]byte(s.seenNote), ks, nil); err == nil {
			signed = true
		}
		// A later origin began where a person accepted a loss.
		if k.origin() == s.seen.Origin && i+1 < len(keys) && keys[i+1].origin() != k.origin() {
			limit = keys[i+1].from
		}
	}
	switch {
	case !signed:
		return "the newest checkpoint kept outside the database, of log " + s.seen.Origin + ", is not signed by a key that the database knows: the database is another, or older than the key", nil
	case limit >= 0 && s.seen.Size > limit:
		return "", nil // that loss was accepted
	case s.seen.Size > h.size:
		return "the database ends at record " + decimal(h.size) + ", the newest checkpoint kept outside it covers " + decimal(s.seen.Size) + ": it was restored from an older copy", nil
	}
	root, err := tlog.Root(s.seen.Size, tlog.TileNodes(h.size, s.tile(ctx)))
	if err != nil {
		return "", broken(err)
	}
	if root != s.seen.Root {
		return "the first " + decimal(s.seen.Size) + " records of the database are not those of the newest checkpoint kept outside it: it was restored from an older copy and written on, or rewritten", nil
	}
	return "", nil
}

// block stops every replica from extending the tree.
func (s *Service) block(ctx context.Context, h head, why string) error {
	return s.log.Change(ctx, func(tx *audit.Tx) error {
		var size int64
		err := tx.QueryRow(ctx, `UPDATE seal_head SET blocked = $1 WHERE name = 'log' AND blocked = '' RETURNING size`, why).Scan(&size)
		if none, err := noRow(err); none || err != nil {
			return err
		}
		tx.Record(event("log.rollback_found", audit.System, why, map[string]string{
			"seen_origin": s.seen.Origin, "seen_size": decimal(s.seen.Size), "seen_root": s.seen.Root.String(),
			"size": decimal(h.size), "root": h.root.String(),
		}))
		return nil
	})
}

// Block stops every replica from extending the tree of a database that is being
// filled from a copy.
func Block(ctx context.Context, db interface {
	Exec(ctx context.Context, q string, args ...any) error
}, why string) error {
	return db.Exec(ctx, `UPDATE seal_head SET blocked = $1 WHERE name = 'log'`, why)
}

// standing remembers a block that the tree's row tells of. Only load, which
// looks itself, ends one.
func (s *Service) standing(h head) error {
	if h.blocked == "" {
		return nil
	}
	s.blocked.Store(&h.blocked)
	return ErrRolledBack.Say("%s", h.blocked)
}

// Standing returns ErrRolledBack, saying why, while the database is known to
// have lost or changed something. It works in memory: what another replica
// found is known here about half a second later.
func (s *Service) Standing() error {
	if why := s.blocked.Load(); why != nil {
		return ErrRolledBack.Say("%s", *why)
	}
	return nil
}

// Blocked returns ErrRolledBack, saying why, while nothing may be sealed.
func (s *Service) Blocked(ctx context.Context) error {
	h, err := s.store.head(ctx)
	if err == nil && h.blocked != "" {
		return ErrRolledBack.Say("%s", h.blocked)
	}
	return err
}
