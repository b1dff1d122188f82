package posture

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Blind makes every check of a predicate see nothing wrong any more, as if it
// were broken.
func (s *Service) Blind(predicate string) {
	pred, _ := find(predicate)
	p := &pass{s: s, ctx: context.Background(), now: s.o.Now()}
	defer p.leave()
	s.blind = map[string]bool{}
	for _, c := range pred.run(p) {
		s.blind[c.Name] = true
	}
}

// SetReviews and SetReleases give the rooms that are not there yet.
func (s *Service) SetReviews(fn func(context.Context) (map[string]time.Time, map[string][]string, error)) {
	s.o.Reviews = fn
}

func (s *Service) SetReleases(fn func(context.Context) ([]Pinned, error)) { s.o.Releases = fn }

// Stretch is how long a result counted.
type Stretch struct {
	Result      Result
	From, Until time.Time
}

// SharesOf is shares of a timeline.
func SharesOf(all []Stretch, from, now time.Time) map[Result]int {
	var b []between
	for _, x := range all {
		b = append(b, between{result: x.Result, at: x.From, expiry: x.Until})
	}
	return shares(timeline(b, from, now))
}

// SharesTogether is shares of several that must all hold.
func SharesTogether(from, now time.Time, all ...[]Stretch) map[Result]int {
	var lines [][]Segment
	for _, one := range all {
		var b []between
		for _, x := range one {
			b = append(b, between{result: x.Result, at: x.From, expiry: x.Until})
		}
		lines = append(lines, timeline(b, from, now))
	}
	return shares(together(lines...))
}

// Forms returns what an export would hold, without its proofs.
func (s *Service) Forms(ctx context.Context) (map[string][]byte, error) {
	doc, err := s.document(ctx, audit.System)
	if err != nil {
		return nil, err
	}
	files, err := s.forms(doc)
	out := map[string][]byte{}
	for _, f := range files {
		out[f.Name] = f.Body
	}
	return out, err
}
