package rotation

// Point calls fn between any two steps and around each provider's answer.
func (s *Service) Point(fn func(string)) { s.point = fn }
