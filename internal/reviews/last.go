package reviews

import (
	"context"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Reviewed returns when each grant that is in force was last kept as it is now, by
// its name; one that nobody reviewed, or that has changed since, is not in it.
func (s *Service) Reviewed(ctx context.Context) (map[string]time.Time, error) {
	seen, err := lastKept(ctx, s.o.DB)
	if err != nil {
		return nil, err
	}
	all, err := s.grants(ctx)
	out := make(map[string]time.Time, len(all))
	for _, x := range all {
		if last, ok := seen[x.ID]; ok && last.digest == x.Digest {
			out[x.Name] = last.at
		}
	}
	return out, err
}

// RevokedTx returns the grants of an agent, by name, about which the last decision of
// any review was to revoke them.
func (s *Service) RevokedTx(ctx context.Context, tx *audit.Tx, agent string) (map[string]bool, error) {
	return revokedLast(ctx, tx, agent)
}

// AgentReview says how the grants of an agent stand.
type AgentReview struct {
	Agent      string    `json:"agent"`
	Grants     int       `json:"grants"`
	Last       time.Time `json:"last,omitzero" doc:"since when every grant has been reviewed as it is; absent: some was not"`
	Unreviewed []string  `json:"unreviewed,omitzero" doc:"grants that nobody kept as they are now"`
	Pending    []string  `json:"pending,omitzero" doc:"what it has that waits for a decision, or is to be revoked, as REVIEW N"`
}

// LastReview says when what an agent may do was last reviewed: it is as old as the
// oldest decision about any of its grants.
func (s *Service) LastReview(ctx context.Context, agent string) (AgentReview, error) {
	out := AgentReview{Agent: agent}
	at, err := s.Reviewed(ctx)
	if err != nil {
		return out, err
	}
	all, err := s.grants(ctx)
	if err != nil {
		return out, err
	}
	for _, x := range all {
		if x.Agent != agent {
			continue
		}
		out.Grants++
		when, ok := at[x.Name]
		if !ok {
			out.Unreviewed = append(out.Unreviewed, x.Name)
		} else if out.Last.IsZero() || when.Before(out.Last) {
			out.Last = when
		}
	}
	if len(out.Unreviewed) > 0 {
		out.Last = time.Time{}
	}
	items, err := readItems(ctx, s.o.DB, ` WHERE agent = $1 AND (decision = '' OR remediation IN ('open', 'executed')) ORDER BY id`, agent)
	for i := range items {
		r, ferr := find(ctx, s.o.DB, items[i].Review)
		if ferr != nil {
			return out, ferr
		}
		out.Pending = append(out.Pending, r.Name+" "+strconv.Itoa(items[i].N))
	}
	return out, err
}
