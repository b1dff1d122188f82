package backup

import (
	"context"
	"crypto/rand"
	"encoding/json/v2"
	"errors"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"filippo.io/age"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/backup/archive"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

// Errors of this package.
var (
	ErrRecipient = fault.New(fault.Invalid, "backup_recipient", "a backup needs age recipients (age1…)")
	ErrNothing   = fault.New(fault.Conflict, "nothing_to_resume", "this database was not restored from a backup, or a person has resumed already")
	ErrReason    = fault.New(fault.Invalid, "reason_required", "say why (--reason), in at most 1000 bytes of text")
	ErrOther     = fault.New(fault.Invalid, "backup_of_other_version", "the backup was made by another version: restore it with that one, then upgrade")
)

// Options of a Service. All are required.
type Options struct {
	DB      *storage.DB
	Log     *audit.Log
	Keys    *secrets.Keys
	Seal    func() *seal.Service // of this server, once there is one
	Version string
	Now     func() time.Time
}

// Service takes backups, and ends the caution of a restored database.
type Service struct{ o Options }

// New returns a Service.
func New(o Options) *Service { return &Service{o} }

const keyBytes = 32

// Create writes a backup to w.
func (s *Service) Create(ctx context.Context, by audit.Actor, reason string, recipients []string, w io.Writer) (archive.Tally, error) {
	if err := s.check(recipients, reason); err != nil {
		return archive.Tally{}, err
	}
	to, err := archive.Recipients(recipients)
	if err != nil {
		return archive.Tally{}, err
	}
	backup := id.At("bkp", s.o.Now())
	if err := s.record(ctx, "backup.begun", by, reason, map[string]any{"backup": backup, "recipients": recipients}); err != nil {
		return archive.Tally{}, err
	}
	tally, err := s.write(ctx, w, to)
	if err != nil {
		return archive.Tally{}, err
	}
	return tally, s.record(ctx, "backup.created", by, reason, map[string]any{"backup": backup, "tables": tally.Tables, "rows": tally.Rows, "sha256": tally.SHA256})
}

// check refuses what Create would, before anything is written.
func (s *Service) check(recipients []string, reason string) error {
	if _, err := archive.Recipients(recipients); err != nil {
		return ErrRecipient.Say("%s", err)
	}
	return checkReason(reason, false)
}

func (s *Service) record(ctx context.Context, t audit.Type, by audit.Actor, reason string, detail map[string]any) error {
	raw, err := json.Marshal(detail, json.Deterministic(true))
	if err != nil {
		return err
	}
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		tx.Record(audit.Event{Type: t, Actor: by, Reason: reason, Object: "database", Detail: raw})
		return nil
	})
}

func (s *Service) write(ctx context.Context, w io.Writer, to []age.Recipient) (tally archive.Tally, err error) {
	own := make([]byte, keyBytes)
	rand.Read(own) // crypto/rand.Read never fails
	defer clear(own)
	keeper, err := secrets.NewKeeper(own)
	if err != nil {
		return tally, err
	}
	err = s.o.DB.Snapshot(ctx, func(v *storage.Snapshot) error {
		made, err := v.Migrations(ctx)
		if err != nil {
			return err
		}
		names, err := v.Tables(ctx)
		if err != nil {
			return err
		}
		out, err := archive.NewWriter(w, archive.Head{Version: s.o.Version, Engine: s.o.DB.Dialect().String(), Taken: s.o.Now().UTC(), Migrations: made, Key: own}, to...)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := s.table(ctx, v, out, name, keeper); err != nil {
				return err
			}
		}
		tally, err = out.Close()
		return err
	})
	return tally, err
}

func (s *Service) table(ctx context.Context, v *storage.Snapshot, out *archive.Writer, name string, keeper secrets.Keeper) error {
	var columns []string
	return v.Rows(ctx, name, func(c []string) error {
		columns = c
		return out.Table(name, c)
	}, func(values []any) error {
		if err := rewrap(ctx, name, columns, values, s.o.Keys, keeper); err != nil {
			return err
		}
		return out.Row(values)
	})
}

// rewrap seals a row that is sealed with the key outside the database with
// another.
func rewrap(ctx context.Context, table string, columns []string, values []any, from, to secrets.Keeper) error {
	row := map[string]any{}
	for i, c := range columns {
		row[c] = values[i]
	}
	again, err := secrets.Rewrap(ctx, table, row, from, to)
	if err == nil && again == nil {
		again, err = audit.Rewrap(ctx, table, row, from, to)
	}
	if err != nil || again == nil {
		return err
	}
	for i, c := range columns {
		if c == "sealed" {
			values[i] = again
		}
	}
	return nil
}

// Restore fills the empty database db from a backup; keys seal what opens it.
func Restore(ctx context.Context, db *storage.DB, keys *secrets.Keys, now time.Time, r io.Reader, open ...age.Identity) (head archive.Head, tally archive.Tally, err error) {
	err = db.Fill(ctx, func(f *storage.Fill) error {
		var own secrets.Keeper
		var table string
		var columns []string
		var insert func([]any) error
		head, tally, err = archive.Read(r, archive.Sink{
			Head: func(h archive.Head) (err error) {
				if err := sameVersion(ctx, f, h); err != nil {
					return err
				}
				own, err = secrets.NewKeeper(h.Key)
				return err
			},
			Table: func(name string, c []string) (err error) {
				table, columns = name, c
				insert, err = f.Into(ctx, name, c)
				return err
			},
			Row: func(values []any) error {
				if err := rewrap(ctx, table, columns, values, own, keys); err != nil {
					return err
				}
				return insert(values)
			},
		}, open...)
		if err != nil {
			return err
		}
		why := "the database was restored from a backup of " + head.Taken.UTC().Format(time.DateTime) + " UTC: stops and revocations since then are missing"
		if err := seal.Block(ctx, f, why); err != nil {
			return err
		}
		return f.Exec(ctx, `INSERT INTO restores (id, taken, restored, resumed, resumed_by) VALUES ($1, $2, $3, 0, '')`,
			id.At("rst", now), storage.Micros(head.Taken), storage.Micros(now))
	})
	return head, tally, err
}

func sameVersion(ctx context.Context, f *storage.Fill, h archive.Head) error {
	made, err := f.Migrations(ctx)
	if err != nil {
		return err
	}
	if len(made) != len(h.Migrations) {
		return ErrOther
	}
	for i, n := range made {
		if h.Migrations[i] != n {
			return ErrOther
		}
	}
	return nil
}

// Restored is one time that this database was filled from a backup.
type Restored struct {
	ID        string    `json:"id"`
	Taken     time.Time `json:"taken" doc:"when the backup was"`
	Restored  time.Time `json:"restored"`
	Resumed   time.Time `json:"resumed,omitzero" doc:"when a person let work go on"`
	ResumedBy string    `json:"resumed_by,omitempty"`
}

// List returns when this database was restored, latest first.
func (s *Service) List(ctx context.Context) ([]Restored, error) {
	rows, err := s.o.DB.Query(ctx, `SELECT id, taken, restored, resumed, resumed_by FROM restores ORDER BY restored DESC`)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []Restored{}
	for rows.Next() {
		var r Restored
		var taken, restored, resumed int64
		if err := rows.Scan(&r.ID, &taken, &restored, &resumed, &r.ResumedBy); err != nil {
			return nil, err
		}
		r.Taken, r.Restored, r.Resumed = storage.Time(taken), storage.Time(restored), storage.Time(resumed)
		out = append(out, r)
	}
	return out, rows.Err()
}

// Held reports whether nothing outside may be ended or replaced: the database
// was restored, or is older than its log, and no person has said what to do.
// What cannot be told counts as held.
func (s *Service) Held(ctx context.Context) bool {
	if sealing := s.o.Seal(); sealing == nil || sealing.Standing() != nil || sealing.Blocked(ctx) != nil {
		return true
	}
	var open bool
	err := s.o.DB.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM restores WHERE resumed = 0)`).Scan(&open)
	return err != nil || open
}

// Resume lets a restored database work: its log goes on under a new origin and
// key, calls are let through, and leases and rotations are seen to again.
func (s *Service) Resume(ctx context.Context, by audit.Actor, reason string) error {
	if err := checkReason(reason, true); err != nil {
		return err
	}
	all, err := s.List(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 || !all[0].Resumed.IsZero() {
		return ErrNothing
	}
	if err := s.o.Seal().Accept(ctx, by, reason); err != nil && !errors.Is(err, seal.ErrNoRollback) {
		return err
	}
	return s.o.Log.Change(ctx, func(tx *audit.Tx) error {
		err := tx.ExecOne(ctx, `UPDATE restores SET resumed = $1, resumed_by = $2 WHERE id = $3 AND resumed = 0`, storage.Micros(s.o.Now()), by.Name, all[0].ID)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrNothing
		}
		if err != nil {
			return err
		}
		raw, err := json.Marshal(map[string]string{"taken": all[0].Taken.Format(time.RFC3339), "restored": all[0].Restored.Format(time.RFC3339)}, json.Deterministic(true))
		if err != nil {
			return err
		}
		tx.Record(audit.Event{Type: "backup.resumed", Actor: by, Reason: reason, Object: "database", Detail: raw})
		return nil
	})
}

func checkReason(reason string, needed bool) error {
	if len(reason) > 1000 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) || needed && strings.TrimSpace(reason) == "" {
		return ErrReason
	}
	return nil
}
