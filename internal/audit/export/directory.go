package export

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// directory writes OCSF JSON Lines into files that are handed over whole.
//
// A file is written under a hidden name and renamed to NAME-NUMBER.jsonl when
// it is large or old enough. How many of its bytes count is stored in the
// transaction that stores the position, after fsync: what a crash leaves beyond
// that is not looked at, so no line is torn or there twice. Each process, and on
// PostgreSQL each hold of the lease, writes a part file of its own; whoever
// begins hands over a copy of what counts of the one before, so a replica that
// has lost its lease without knowing cannot write into what was handed over.
type directory struct {
	f *follower
	m *Mapper

	id   string   // of the directory: another one has a state of its own
	part *os.File // nil until something is written
	file file
}

// idFile names the directory, so that a state is never applied to another.
func (d *directory) idFile() string { return "." + d.f.t.Name + ".id" }

func (d *directory) path(name string) string { return filepath.Join(d.f.t.Dir, name) }

// finalName is what a file is called once it is whole.
func (d *directory) finalName(number int64) string {
	return fmt.Sprintf("%s-%012d.jsonl", d.f.t.Name, number)
}

func (d *directory) open(ctx context.Context) error {
	d.close()
	if err := d.identify(); err != nil {
		return local(err)
	}
	var err error
	if d.file, err = d.f.s.store.file(ctx, d.f.t.Name, d.id); err != nil {
		return err
	}
	if err := d.missing(ctx); err != nil {
		return err
	}
	if d.file.written > 0 || d.file.closing {
		if err := d.handOver(ctx); err != nil {
			return err
		}
	}
	return local(d.sweep())
}

// missing tells someone when the part file is gone whose lines count as
// delivered: only a person or another program can have taken it.
func (d *directory) missing(ctx context.Context) error {
	if d.file.written == 0 || d.file.closing {
		return nil
	}
	_, err := os.Stat(d.path(d.file.part))
	if !errors.Is(err, fs.ErrNotExist) {
		return local(err)
	}
	d.f.s.o.Logger.Error("the file that an export had open is gone", "target", d.f.t.Name, "file", d.path(d.file.part))
	if d.f.s.o.Alert == nil {
		return nil
	}
	a := Alert{Rule: "export.rejected", Object: "export/" + d.f.t.Name, Title: "A file of exported events is gone",
		Detail: fmt.Sprintf("%s had written %d bytes since %s into %s, which was taken away before it was handed over. The log still has the events: countersign log export --format ocsf --since ... writes them again.",
			d.f.t.Name, d.file.written, d.file.opened.UTC().Format(time.RFC3339), d.path(d.file.part))}
	return d.f.s.log.Change(ctx, func(tx *audit.Tx) error { return d.f.s.o.Alert(ctx, tx, a) })
}

// identify reads the directory's own name, or gives it one.
func (d *directory) identify() error {
	if err := os.MkdirAll(d.f.t.Dir, 0o750); err != nil {
		return err
	}
	name := d.path(d.idFile())
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(rand.Text() + "\n")
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return errors.Join(err, os.Remove(name))
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if d.id = strings.TrimSpace(string(b)); len(d.id) < 20 || len(d.id) > 64 {
		return fmt.Errorf("%s does not hold the name of the directory: if it was torn by a crash, remove it", name)
	}
	return syncDir(d.f.t.Dir)
}

// sweep removes part files that count no more.
func (d *directory) sweep() error {
	names, err := os.ReadDir(d.f.t.Dir)
	if err != nil {
		return err
	}
	// Exactly ours: another target's name may begin with this one's.
	ours := "." + d.f.t.Name + "-" + strings.Repeat("[0-9]", 12) + ".*.part*"
	for _, n := range names {
		if ok, err := filepath.Match(ours, n.Name()); err != nil || !ok {
			continue // the pattern is a good one
		}
		if err := os.Remove(d.path(n.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (d *directory) close() {
	if d.part != nil {
		_ = d.part.Close() // what counts was synced
		d.part = nil
	}
}

// send appends records and makes them durable.
func (d *directory) send(ctx context.Context, recs []audit.Record) (delivery, error) {
	var lines bytes.Buffer
	for i := range recs {
		b, err := d.m.OCSF(&recs[i])
		if err != nil {
			return delivery{}, &refusal{problem: err.Error(), content: true}
		}
		lines.Write(b)
		lines.WriteByte('\n')
	}
	if d.file.written >= d.f.t.RotateBytes || d.old() {
		if err := d.handOver(ctx); err != nil {
			return delivery{}, err
		}
	}
	next := d.file
	if err := d.append(&next, lines.Bytes()); err != nil {
		return delivery{}, local(err)
	}
	return delivery{
		commit: func(ctx context.Context, tx *storage.Tx) error {
			return d.f.s.store.setFile(ctx, tx, d.f.t.Name, d.id, next)
		},
		settle: func() { d.file = next },
	}, nil
}

// append writes lines where what counts ends; what stands there was written by
// an attempt that failed.
func (d *directory) append(next *file, lines []byte) error {
	if d.part == nil {
		next.part = fmt.Sprintf(".%s-%012d.%d-%s.part", d.f.t.Name, next.number, d.f.epoch, rand.Text()[:8])
		f, err := os.OpenFile(d.path(next.part), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
		if err != nil {
			return err
		}
		d.part, d.file.part = f, next.part
		if err := syncDir(d.f.t.Dir); err != nil {
			return err
		}
	}
	if next.written == 0 {
		next.opened = d.f.s.o.Now()
	}
	if err := d.part.Truncate(next.written); err != nil {
		return err
	}
	if _, err := d.part.WriteAt(lines, next.written); err != nil {
		return err
	}
	next.written += int64(len(lines))
	return d.part.Sync()
}

func (d *directory) old() bool {
	return d.file.written > 0 && d.f.s.o.Now().Sub(d.file.opened) >= d.f.t.RotateAfter
}

func (d *directory) idle(ctx context.Context) error {
	if !d.old() {
		return nil
	}
	return d.handOver(ctx)
}

// handOver gives the file its final name and begins the next. Each step is in
// the database before it is taken, so that it can be taken again.
func (d *directory) handOver(ctx context.Context) error {
	d.close()
	closing := d.file
	closing.closing = true
	if err := d.keep(ctx, closing); err != nil {
		return err
	}
	if err := d.finish(closing); err != nil {
		return local(err)
	}
	return d.keep(ctx, file{number: closing.number + 1})
}

// keep stores the file's state, if the lease is still ours.
func (d *directory) keep(ctx context.Context, f file) error {
	err := d.f.s.db.Tx(ctx, func(tx *storage.Tx) error {
		if err := d.f.lease.Check(ctx, tx); err != nil {
			return err
		}
		return d.f.s.store.setFile(ctx, tx, d.f.t.Name, d.id, f)
	})
	if err == nil {
		d.file = f
	}
	return err
}

// finish makes the final file of a part. It may have been done already, and
// the file taken away since.
func (d *directory) finish(f file) error {
	final, part := d.path(d.finalName(f.number)), d.path(f.part)
	in, err := os.Open(part)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // handed over: the part is removed only after that
	}
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := part + ".whole"
	if err := copyPrefix(in, tmp, f.written); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	// A file of that name is the one we made before the crash, or, after a
	// database was restored, one of another history: never overwrite it.
	if same, err := sameContent(tmp, final); err != nil || !same {
		if err == nil {
			err = fmt.Errorf("%s is there already with other content (was the database restored?): move it away", final)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, os.Remove(tmp))
		}
		if err := os.Rename(tmp, final); err != nil {
			return errors.Join(err, os.Remove(tmp))
		}
	} else if err := os.Remove(tmp); err != nil {
		return err
	}
	if err := syncDir(d.f.t.Dir); err != nil {
		return err
	}
	return os.Remove(part)
}

func copyPrefix(in io.Reader, to string, n int64) error {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = io.CopyN(out, in, n)
	if errors.Is(err, io.EOF) {
		err = errors.New("the part file is shorter than what was written into it: the directory was changed by another, or lost what was synced")
	}
	return errors.Join(err, out.Sync(), out.Close())
}

// sameContent reports whether two files are equal. fs.ErrNotExist if b is not
// there.
func sameContent(a, b string) (bool, error) {
	y, err := os.ReadFile(b)
	if err != nil {
		return false, err
	}
	x, err := os.ReadFile(a)
	return bytes.Equal(x, y), err
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// local is what is wrong with the directory: it is tried again.
func local(err error) error {
	if err == nil {
		return nil
	}
	return &later{problem: err.Error()}
}
