package ledger

import "context"

// Arrive lets an invoice come in as Run does on its ticks.
func (s *Server) Arrive(ctx context.Context, limit int) error { return s.store.arrive(ctx, limit) }
