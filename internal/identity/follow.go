package identity

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Follower is told, inside the transaction, what becomes of people and agents;
// lifecycle.Service is one. An error undoes the change.
type Follower interface {
	// UserTurned is told that a user was disabled or enabled.
	UserTurned(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, u User) error
	// AgentChanged is told that an agent has another owner, backup, team or
	// stage, or was suspended or resumed.
	AgentChanged(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, old, now Agent) error
	// TeamChanged is told that a team has other members.
	TeamChanged(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, old, now Team) error
	// Acting reports whether the backup owner answers for an agent at a time,
	// because its owner has left. It must work in memory.
	Acting(agent string, now time.Time) bool
}

// Follow says who follows. It must be called before the Service is used.
func (s *Service) Follow(f Follower) { s.follower = f }

// answering returns the active user who answers for an agent: its owner or,
// for a while after the owner left, its backup. ok is false if there is none;
// the owner is returned then as far as known.
func (s *Service) answering(v *snapshot, a Agent) (u User, ok bool) {
	owner, known := v.users[a.Owner]
	if known && !owner.Disabled {
		return owner, true
	}
	if s.follower != nil && a.Backup != "" && s.follower.Acting(a.Name, s.now()) {
		if backup, known := v.users[a.Backup]; known && !backup.Disabled {
			return backup, true
		}
	}
	return owner, false
}

// acting reports whether an agent whose owner left has somebody who answers.
func (s *Service) acting(a Agent) bool {
	_, ok := s.answering(s.view.Load(), a)
	return ok
}
