package reviews

// Die has the service stop at a step, as if it were killed there.
func (s *Service) Die(at func(step string) error) { s.step = at }
