package policy

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
)

// ErrNoVersion is returned for a version that there is not, or none before it.
var ErrNoVersion = fault.New(fault.NotFound, "version_not_found", "there is no such version, or none before the present one; countersign policy history and grant history list them")

// GrantVersion is one state a grant had.
type GrantVersion struct {
	Version int64     `json:"version"`
	Grant   Grant     `json:"grant"`
	Revoked bool      `json:"revoked,omitzero"`
	SavedBy string    `json:"saved_by"`
	Reason  string    `json:"reason,omitempty"`
	Saved   time.Time `json:"saved"`
}

// GrantHistory returns a grant's versions, the newest first, also of a revoked one.
func (s *Service) GrantHistory(ctx context.Context, name string) ([]GrantVersion, error) {
	found, err := readGrantVersions(ctx, s.db, name)
	if err == nil && len(found) == 0 {
		err = ErrNoGrant.Say("there was never a grant %q", name)
	}
	return found, err
}

// GrantHistoryTx is GrantHistory inside a change; it may be empty.
func (s *Service) GrantHistoryTx(ctx context.Context, tx *audit.Tx, name string) ([]GrantVersion, error) {
	return readGrantVersions(ctx, tx, name)
}

// RollbackPolicy saves an earlier version of a policy file as its newest: to, or
// with 0 the one before the present. If the file was not there then, it is deleted.
// The text must parse; what of it does not fit the tools of now denies the calls
// that it is about. It reports whether anything changed.
func (s *Service) RollbackPolicy(ctx context.Context, by audit.Actor, reason, name string, to int64) (changed bool, err error) {
	if err := needReason(reason); err != nil {
		return false, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		all, err := readHistory(ctx, tx, name)
		if err != nil {
			return err
		}
		i := at(len(all), func(i int) int64 { return all[i].Version }, to)
		switch {
		case i < 0:
			return ErrNoVersion.Say("the policy file %q has no such version, or none before the present one; countersign policy history %s lists them", name, name)
		case !all[i].Deleted:
			changed, err = s.RestoreTx(ctx, tx, by, reason, name, all[i].Text)
			return err
		case all[0].Deleted:
			return nil
		}
		changed = true
		return s.DeletePolicyTx(ctx, tx, by, reason, name)
	})
	return changed, err
}

// RollbackGrant gives a grant back as it was in an earlier version: to, or with 0
// the one before the present. If it was not there then, it is revoked. One that
// has expired meanwhile stays away (ErrExpired). It reports whether anything changed.
func (s *Service) RollbackGrant(ctx context.Context, by audit.Actor, reason, name string, to int64) (changed bool, err error) {
	if err := needReason(reason); err != nil {
		return false, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		all, err := readGrantVersions(ctx, tx, name)
		if err != nil {
			return err
		}
		i := at(len(all), func(i int) int64 { return all[i].Version }, to)
		if i < 0 {
			return ErrNoVersion.Say("the grant %q has no such version, or none before the present one; countersign grant history %s lists them", name, name)
		}
		v := all[i]
		if v.Revoked {
			if changed = !all[0].Revoked; !changed {
				return nil
			}
			return s.RevokeGrantTx(ctx, tx, by, reason, name)
		}
		if s.o.Agents != nil {
			if _, ok := s.o.Agents(v.Grant.Agent); !ok {
				return ErrNoAgent.Say("there is no agent %q any more to give the grant to", v.Grant.Agent)
			}
		}
		if !v.Grant.Expires.IsZero() && !v.Grant.Expires.After(s.o.Now()) {
			return ErrExpired.Say("the grant %q expired meanwhile; give it anew (countersign grant add)", name)
		}
		old, err := readGrants(ctx, tx, ` WHERE name = $1`, name)
		if err != nil || len(old) == 1 && old[0].same(v.Grant) {
			return err
		}
		if _, problems := v.Grant.compile(); len(problems) > 0 {
			return refuse(problems)
		}
		if err := s.guard.ask(ctx, tx, v.Grant, old); err != nil {
			return err
		}
		changed = true
		return s.saveGrant(ctx, tx, by, reason, v.Grant, old)
	})
	return changed, err
}

// at finds a version among n, the newest first: number, or the one before the
// newest if number is 0. It is -1 if there is none.
func at(n int, version func(int) int64, number int64) int {
	if number == 0 {
		if n < 2 {
			return -1
		}
		return 1
	}
	for i := range n {
		if version(i) == number {
			return i
		}
	}
	return -1
}

func needReason(reason string) error {
	if reason == "" {
		return ErrReason.Say("say why (--reason), in at most 1000 characters of plain text")
	}
	return checkReason(reason)
}
