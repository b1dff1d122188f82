package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/example"
)

// office is what the people of the house do once, after the agents' first tasks:
// they pin what works, and what nothing refused is taken back, rolled back and
// cut. So there is something to see wherever people look.
func (s *showcase) office(ctx context.Context) error {
	before, err := s.c.Incidents(ctx, "", "", 1)
	if err != nil || len(before) > 0 {
		return err // it was done at another start
	}
	began := time.Now()
	fmt.Fprintln(s.stdout, s.paint(s.stdout, bold, "What nothing refused, and what was done about it"))
	r := &raid{showcase: s}
	for _, as := range assaults {
		if !as.after {
			continue
		}
		res, err := r.strike(ctx, as)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", as.id, err)
		}
		s.printAttack(res)
	}
	inc, err := s.incident(ctx)
	if err != nil {
		return err
	}
	if err := s.review(ctx); err != nil {
		return err
	}
	// Its grants are as old as the example, so that is how far back use is judged.
	if _, err := s.c.ProposeRightsizing(ctx, example.SupportAssistant, time.Since(began)); err != nil {
		return err
	}
	if _, err := s.c.BeginPosture(ctx); err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "\n%s opened the incident %s, and a review of what the agents may do; evidence is being computed\n\n", mender, inc)
	return nil
}

// incident opens an incident about the key that was stolen.
func (s *showcase) incident(ctx context.Context) (string, error) {
	person, err := s.as(ctx, mender)
	if err != nil {
		return "", err
	}
	found, err := s.c.Findings(ctx, client.FindingQuery{Status: "open"})
	if err != nil {
		return "", err
	}
	start := client.IncidentStart{Agent: example.SupportAssistant}
	for _, rule := range exampleRules { // by the first of them, whichever else saw the key too
		at := slices.IndexFunc(found, func(f client.Finding) bool {
			return f.Rule == "detection."+rule && strings.HasPrefix(f.Object, "credential/")
		})
		if at >= 0 {
			start = client.IncidentStart{Finding: found[at].ID}
			break
		}
	}
	inc, err := person.WithReason("somebody had a key of ours").OpenIncident(ctx, start)
	if err != nil {
		return "", err
	}
	_, err = person.NoteIncident(ctx, inc.ID, "The key stood in a page of the wiki. It is gone from there, and revoked.")
	return inc.ID, err
}

// review asks the owners what their agents still need, and one of them answers.
func (s *showcase) review(ctx context.Context) error {
	rev, err := s.c.WithReason("the first review").StartReview(ctx, client.ReviewSpec{Name: "first-review", Scope: client.ReviewScope{All: true}, Due: time.Now().Add(14 * 24 * time.Hour)})
	if err != nil {
		return err
	}
	person, err := s.as(ctx, mender)
	if err != nil {
		return err
	}
	waits, err := person.MyReviews(ctx)
	if err != nil || len(waits) == 0 {
		return err
	}
	_, err = person.WithReason("colleagues ask it every day").DecideReview(ctx, rev.ID, waits[0].Item.N, "keep", "")
	return err
}
