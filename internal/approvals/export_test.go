package approvals

// Kept returns how many requests somebody waits for in this process.
func (s *Service) Kept() (n int) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, w := range s.hub.waiting {
		n += w.n
	}
	return n
}

// May is whether a request may go from one state to another.
func May(from, to State) bool { return from.may(to) }
