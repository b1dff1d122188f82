package signin

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/storage"
)

const (
	leaseTTL = time.Minute
	batch    = 50 // people per look
)

// RuleUnconfirmed is the finding about a person whose standing cannot be asked for.
const RuleUnconfirmed = "user.unconfirmed"

// keep keeps a person's refresh token, sealed, to ask later whether they are
// still there. Without one nothing is asked, and only signing in again tells.
func (s *Service) keep(ctx context.Context, tx *audit.Tx, u identity.User, refresh string) error {
	if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, "user/"+u.Name, "signed in again", RuleUnconfirmed); err != nil {
		return err
	}
	if refresh == "" {
		return nil
	}
	box := s.aead.Seal(nil, nil, []byte(refresh), s.label(u.Name, u.ID))
	return observe(tx.QueryRow(ctx, `INSERT INTO user_standing (user_name, sealed, checked, asking) VALUES ($1, $2, $3, 0)
		ON CONFLICT (user_name) DO UPDATE SET sealed = excluded.sealed, checked = excluded.checked, asking = 0 RETURNING user_name`, u.Name, box, storage.Micros(s.o.Now())))
}

// observe runs a statement that stores an observation, which is no change that
// needs an event; it returns a name, or nothing if somebody was faster.
func observe(row *sql.Row) error {
	var name string
	if err := row.Scan(&name); !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return nil
}

func (s *Service) label(name, id string) []byte {
	return []byte("countersign refresh token\x00" + name + "\x00" + id)
}

// Start begins to ask the provider whether people are still there, on one
// replica at a time. Without a provider it does nothing.
func (s *Service) Start(ctx context.Context) error {
	if !s.On() {
		return nil
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	lease := job.NewLease(s.o.DB, "signin/standing", leaseTTL)
	s.done.Go(func() {
		tick := time.NewTicker(max(min(s.o.Config.CheckEvery/4, 20*time.Second), time.Second/4))
		defer tick.Stop()
		for {
			select {
			case <-run.Done():
				_ = lease.Release(context.WithoutCancel(run)) // else it expires
				return
			case <-tick.C:
			}
			if err := s.Look(run, lease); err != nil && run.Err() == nil {
				s.o.Logger.Warn("the identity provider could not be asked who is still there", "error", err)
			}
		}
	})
	return nil
}

// Stop ends the background work. It may be called without Start and more than once.
func (s *Service) Stop(context.Context) error {
	if s.cancel != nil {
		s.cancel()
		s.done.Wait()
		s.cancel = nil
	}
	return nil
}

type standing struct {
	user, id        string
	subject         string
	sealed          []byte
	checked, asking int64
}

// Look asks about everybody who is due, as far as this replica holds the lease.
func (s *Service) Look(ctx context.Context, lease *job.Lease) error {
	if ours, err := lease.Acquire(ctx); err != nil || !ours {
		return err
	}
	due, err := s.due(ctx)
	if err != nil {
		return err
	}
	var all []error
	for _, d := range due {
		if err := lease.Renew(ctx); err != nil {
			return err
		}
		if err := s.ask(ctx, lease, d); err != nil {
			if errors.Is(err, ErrProvider) { // the others would hear the same
				return err
			}
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

func (s *Service) due(ctx context.Context) (out []standing, err error) {
	rows, err := s.o.DB.Query(ctx, `SELECT s.user_name, u.id, u.subject, s.sealed, s.checked, s.asking FROM user_standing s JOIN users u ON u.name = s.user_name
		WHERE s.checked <= $1 AND NOT u.disabled AND u.issuer = $2 ORDER BY s.checked LIMIT $3`, storage.Micros(s.o.Now().Add(-s.o.Config.CheckEvery)), s.o.Config.Issuer, batch)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	for rows.Next() {
		var d standing
		if err := rows.Scan(&d.user, &d.id, &d.subject, &d.sealed, &d.checked, &d.asking); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

// ask asks about one person. That it is about to ask is noted first: a provider
// that rotates refresh tokens takes the old one for stolen if we die between
// its answer and our commit, and its no would then be our own doing.
func (s *Service) ask(ctx context.Context, lease *job.Lease, d standing) error {
	refresh, err := s.aead.Open(nil, nil, d.sealed, s.label(d.user, d.id))
	if err != nil {
		return ErrStored.With(err)
	}
	noted := false
	if err := s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		res, err := tx.Exec(ctx, `UPDATE user_standing SET asking = $1 WHERE user_name = $2 AND checked = $3 AND asking = $4`, storage.Micros(s.o.Now()), d.user, d.checked, d.asking)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		noted = n == 1
		return errors.Join(err, lease.Check(ctx, tx))
	}); err != nil || !noted {
		return err
	}
	who, err := s.provider.still(ctx, d.subject, string(refresh))
	switch {
	case errors.Is(err, errGone) && d.asking != 0:
		return s.unsure(ctx, lease, d)
	case errors.Is(err, errGone):
		return s.gone(ctx, lease, d, "the identity provider no longer vouches for them")
	case err != nil:
		return errors.Join(err, s.unnote(ctx, d, err))
	}
	return s.stays(ctx, lease, d, who)
}

// unnote takes the note back when it is sure that the provider did not rotate
// anything: it could not be reached, or refused our own request.
func (s *Service) unnote(ctx context.Context, d standing, err error) error {
	if !errors.Is(err, ErrProvider) {
		return nil
	}
	return s.o.DB.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE user_standing SET asking = $1 WHERE user_name = $2 AND checked = $3`, d.asking, d.user, d.checked)
		return err
	})
}

// stays brings a person up to date who is still there, unless their groups or
// address now say that they may not be.
func (s *Service) stays(ctx context.Context, lease *job.Lease, d standing, who person) error {
	var v identity.Vouched
	if len(who.claims) > 0 {
		var err error
		if v, err = s.o.Config.vouch(who); err != nil {
			return s.gone(ctx, lease, d, fault.Public(err).Message)
		}
	}
	return s.fenced(ctx, lease, func(tx *audit.Tx) error {
		if v.Subject != "" {
			if _, err := s.o.Identity.AdmitTx(ctx, tx, v, false); err != nil && !errors.Is(err, identity.ErrTurnedOff) {
				return err
			}
		}
		if who.refresh != "" {
			d.sealed = s.aead.Seal(nil, nil, []byte(who.refresh), s.label(d.user, d.id))
		}
		return s.note(ctx, tx, d)
	})
}

// note stores that a person was asked about. An observation is no event.
func (s *Service) note(ctx context.Context, tx *audit.Tx, d standing) error {
	// Nobody's row: they signed in meanwhile, with a newer token.
	return observe(tx.QueryRow(ctx, `UPDATE user_standing SET sealed = $1, checked = $2, asking = 0 WHERE user_name = $3 AND checked = $4 RETURNING user_name`,
		d.sealed, storage.Micros(s.o.Now()), d.user, d.checked))
}

// gone disables a person who is not there any more; their agents follow
// (identity.Follower).
func (s *Service) gone(ctx context.Context, lease *job.Lease, d standing, why string) error {
	err := s.fenced(ctx, lease, func(tx *audit.Tx) error {
		_, err := s.o.Identity.GoneTx(ctx, tx, why, d.user)
		return err
	})
	if errors.Is(err, identity.ErrLastAdmin) {
		return s.finding(ctx, lease, d, "The last administrator is gone", "The identity provider no longer vouches for "+d.user+
			", the last active administrator, who therefore stays enabled. Make another administrator, then disable this one.")
	}
	return err
}

// unsure is for a no that may be our own doing.
func (s *Service) unsure(ctx context.Context, lease *job.Lease, d standing) error {
	return s.finding(ctx, lease, d, "It is not known whether "+d.user+" is still there",
		"The server stopped while it asked the identity provider about them, and their refresh token is not good any more. They are confirmed when they sign in again; if they have left, disable them.")
}

func (s *Service) finding(ctx context.Context, lease *job.Lease, d standing, title, detail string) error {
	return s.fenced(ctx, lease, func(tx *audit.Tx) error {
		if err := s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleUnconfirmed, Severity: findings.High, Object: "user/" + d.user, Title: title, Detail: detail}); err != nil {
			return err
		}
		return observe(tx.QueryRow(ctx, `DELETE FROM user_standing WHERE user_name = $1 AND checked = $2 RETURNING user_name`, d.user, d.checked))
	})
}

// fenced is change for whoever holds the lease. It is looked at just before, not
// inside: to extend it is a write, and what is found to be as it was is not
// recorded. Each row is compared with what was read, so the overlap harms nothing.
func (s *Service) fenced(ctx context.Context, lease *job.Lease, fn func(tx *audit.Tx) error) error {
	if err := lease.Renew(ctx); err != nil {
		return err
	}
	return s.change(ctx, fn)
}
