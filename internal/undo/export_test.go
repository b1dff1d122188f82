package undo

import "context"

// Seize takes the work over from a service whose process is gone.
func (s *Service) Seize(ctx context.Context) error { return s.lease.Seize(ctx) }
