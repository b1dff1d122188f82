package use

import "context"

// Follow follows until ctx ends, at once and wherever it is.
func Follow(ctx context.Context, s *Service) { s.run(ctx, make(chan struct{})) }
