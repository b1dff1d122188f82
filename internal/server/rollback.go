package server

import (
	"context"

	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
)

// errRolledBack refuses calls while the database is known to be older than the
// log's newest checkpoint, or to contradict it. Such a database does not hold
// the present locks and revocations, so nobody can be told from the stopped
// (docs/design/restored-database.md). It is Unavailable: an agent tries again,
// a load balancer goes elsewhere.
var errRolledBack = fault.New(fault.Unavailable, "log_rolled_back", "calls are refused: the database is older than the log's newest checkpoint, so stops and revocations may be missing; an administrator decides with countersign log accept-rollback")

// standing lets nobody through while the log is rolled back.
type standing struct {
	*identity.Service
	rolledBack func() error
}

// Authenticate is identity's, unless the log is rolled back.
func (s standing) Authenticate(ctx context.Context, credential string) (identity.Caller, error) {
	if err := s.rolledBack(); err != nil {
		return identity.Caller{}, err
	}
	return s.Service.Authenticate(ctx, credential)
}

// Readmit is identity's, unless the log is rolled back.
func (s standing) Readmit(ctx context.Context, r identity.Resumed) (identity.Caller, error) {
	if err := s.rolledBack(); err != nil {
		return identity.Caller{}, err
	}
	return s.Service.Readmit(ctx, r)
}

// rolledBack returns errRolledBack while a person has yet to decide. Before
// sealing is built, at the start, nobody is let in.
func (h *house) rolledBack() error {
	if h.seal == nil {
		return errRolledBack.Say("the server is starting")
	}
	if err := h.seal.Standing(); err != nil {
		return errRolledBack.With(seal.ErrRolledBack)
	}
	return nil
}
