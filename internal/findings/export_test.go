package findings

// Allow sets how many findings of one rule may be open.
func (s *Service) Allow(most int) { s.mostOpen = most }
