package tokens

// Forget forgets which tokens were verified.
func (s *Service) Forget() {
	s.verified.mu.Lock()
	defer s.verified.mu.Unlock()
	s.verified.young, s.verified.old = nil, nil
}
