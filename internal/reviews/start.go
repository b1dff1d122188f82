package reviews

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
)

// Waits is an item that waits for somebody.
type Waits struct {
	ID       string    `json:"id"`
	Review   string    `json:"review"`
	Question string    `json:"question,omitzero"`
	Due      time.Time `json:"due"`
	Item     Item      `json:"item"`
}

// Begin starts a review over what is in its scope now: what comes later is not
// in it. Needs a reason. Refusals: ErrInvalid, ErrEmpty, ErrExists, ErrReason.
func (s *Service) Begin(ctx context.Context, by audit.Actor, reason string, r Review) (Review, error) {
	if err := checkReason(reason, true); err != nil {
		return r, err
	}
	now := s.now()
	r = Review{ID: id.At(reviewID, now), Name: r.Name, Question: r.Question, Scope: r.Scope, Rules: r.Rules, State: Open, By: Person{by.ID, by.Name}, Reason: reason, Created: now,
		Due: r.Due.UTC().Truncate(time.Microsecond), Event: id.At(id.Event, now)}
	if r.Name == "" {
		r.Name = r.ID
	}
	if err := r.normalize(now); err != nil {
		return r, err
	}
	if err := s.known(r.Rules); err != nil {
		return r, err
	}
	found, err := s.subjects(ctx, r.Scope)
	if err != nil {
		return r, err
	}
	return s.launch(ctx, by, r, found)
}

// known refuses rules that name people or groups who do not exist.
func (s *Service) known(rules Rules) error {
	for _, level := range append(rules.Levels, rules.Escalate) {
		for _, rule := range level {
			kind, name, named := cut(rule)
			if !named {
				continue
			}
			ok := kind == "role"
			switch kind {
			case "user":
				_, ok = s.o.Identity.User(name)
			case "group":
				_, ok = s.o.Identity.Group(name)
			}
			if !ok {
				return ErrInvalid.Say("reviewers: there is no %s %q", kind, name)
			}
		}
	}
	return nil
}

func (s *Service) launch(ctx context.Context, by audit.Actor, r Review, found []Subject) (Review, error) {
	if len(found) == 0 {
		return r, ErrEmpty
	}
	if len(found) > mostItems {
		return r, ErrInvalid.Say("this would ask about %d things; narrow the scope to at most %d", len(found), mostItems)
	}
	items := make([]Item, len(found))
	asked := make([][2]string, len(found))
	for i, x := range found {
		items[i] = Item{ID: id.At(itemID, r.Created), Review: r.ID, N: i + 1, Subject: x, Level: 1, Remediation: NoRemedy, Events: []string{r.Event}}
		asked[i] = [2]string{x.Object(), x.Digest}
	}
	err := s.change(ctx, func(tx *audit.Tx) error {
		ev := r.event("review.started", by, r.Reason, map[string]any{"items": len(items), "asks": digestOf(asked), "scope": r.Scope, "rules": r.Rules, "due": r.Due, "question": r.Question})
		ev.ID = r.Event
		tx.Record(ev)
		if err := insertReview(ctx, tx, &r, r.Created); err != nil {
			return err
		}
		for i := range items {
			if err := insertItem(ctx, tx, &items[i]); err != nil {
				return err
			}
		}
		text := fmt.Sprintf("The review %s asks you about %s until %s", r.Name, plain(len(items), "thing"), r.Due.UTC().Format(time.DateOnly))
		if r.Question != "" {
			text = "A question for you: " + r.Question + " (countersign review mine)"
		}
		return s.tell(ctx, tx, text, s.everybody(&r, items))
	})
	if err != nil {
		return r, err
	}
	if err := s.lookAt(ctx, &r); err != nil { // who has nobody to decide is seen at once
		s.o.Logger.Warn("a review was started, but could not be looked at; it is again in a moment", "review", r.Name, "error", err)
	}
	return s.Get(ctx, r.ID)
}

// everybody returns who may decide about any of the items now.
func (s *Service) everybody(r *Review, items []Item) []Person {
	seen := map[string]bool{}
	var out []Person
	for i := range items {
		if !items[i].open() {
			continue
		}
		for _, p := range s.reviewers(r, &items[i]) {
			if !seen[p.ID] {
				seen[p.ID] = true
				out = append(out, p)
			}
		}
	}
	return out
}

// Get returns a review with its items, by identifier or name.
func (s *Service) Get(ctx context.Context, which string) (Review, error) {
	r, err := find(ctx, s.o.DB, which)
	if err != nil {
		return r, err
	}
	if r.Items, err = itemsOf(ctx, s.o.DB, r.ID); err != nil {
		return r, err
	}
	for i := range r.Items {
		it := &r.Items[i]
		r.Counts.count(it)
		if !it.open() || r.State == Closed {
			continue
		}
		s.refresh(&it.Subject)
		for _, p := range s.reviewers(&r, it) {
			it.Reviewers = append(it.Reviewers, p.Name)
		}
	}
	return r, nil
}

// List returns reviews, the latest first, without items; questions only if asked for.
func (s *Service) List(ctx context.Context, questions bool) ([]Review, error) {
	all, err := readReviews(ctx, s.o.DB, ` ORDER BY id DESC LIMIT 1000`)
	if err != nil {
		return nil, err
	}
	out := []Review{}
	for _, r := range all {
		if r.Question != "" && !questions {
			continue
		}
		items, err := itemsOf(ctx, s.o.DB, r.ID)
		if err != nil {
			return nil, err
		}
		for i := range items {
			r.Counts.count(&items[i])
		}
		out = append(out, r)
	}
	return out, nil
}

// nobody is the finding about items that nobody can decide.
func nobody(r *Review, n int) findings.Finding {
	return findings.Finding{Rule: RuleNobody, Severity: findings.High, Object: object(r), Title: "Nobody is left who could decide about " + plain(n, "item") + " of the review " + r.Name,
		Detail: "Every reviewer left, may not decide, or has a part in it. It stays open until somebody decides: name a reviewer with countersign review delegate " + r.Name + " N --to USER --reason TEXT, or give the agent another owner."}
}
