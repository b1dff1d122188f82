package use

import (
	"context"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/policy"
)

// Matched returns the grants and policies that determined a call since a day,
// and since when that is known.
func (s *Service) Matched(ctx context.Context, since time.Time) (policy.Matched, error) {
	found, w, err := s.find(ctx, Query{Since: since})
	m := policy.Matched{Rules: map[string]bool{}, Known: w.Since}
	for k := range found {
		if k.rule != "" && !strings.HasSuffix(k.rule, triedRule) {
			m.Rules[k.rule] = true
		}
	}
	return m, err
}
