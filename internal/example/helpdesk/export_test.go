package helpdesk

import "context"

// Arrive lets a ticket come in as Serve does on its ticks.
func (s *Server) Arrive(ctx context.Context, limit int) error { return s.store.arrive(ctx, limit) }
