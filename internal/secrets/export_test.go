package secrets

import "context"

// Settle waits until what is being written in the background has been. No
// Inject may run meanwhile.
func (s *Service) Settle(ctx context.Context) error { return s.settle(ctx) }
