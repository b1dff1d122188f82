package use

import "context"

// Follow follows until ctx ends.
func Follow(ctx context.Context, s *Service) {
	_ = s.Start(ctx) // it cannot fail
	<-ctx.Done()
	_ = s.Stop(context.WithoutCancel(ctx)) // the process ends
}
