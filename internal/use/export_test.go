package use

import "context"

// Follow follows until ctx ends, and then hands nothing over.
func Follow(ctx context.Context, s *Service) {
	f := s.follower()
	f.Lease = nil
	_ = f.Start(ctx) // it cannot fail
	<-ctx.Done()
	_ = f.Stop(context.WithoutCancel(ctx))
}
