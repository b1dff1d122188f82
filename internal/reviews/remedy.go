package reviews

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

const (
	// patience is for how long a revoke is left to whoever decided it.
	patience   = 15 * time.Second
	retryFirst = 2 * time.Second
	retryMost  = 5 * time.Minute
	tellAfter  = 5  // tries
	mostTries  = 24 // of a probe: over an hour
)

// carry takes a revoke from its state to its end: it is executed in one
// transaction, and then tried. Whoever is killed in between leaves what the clock
// goes on with; doing either part again does no harm.
func (s *Service) carry(ctx context.Context, r *Review, it *Item) error {
	if it.Remediation == Waiting {
		if s.now().Before(it.Decided.Add(r.Rules.grace())) {
			return nil
		}
		if err := s.execute(ctx, r, it); err != nil {
			return errors.Join(err, s.again(ctx, r, it, err))
		}
	}
	if it.Remediation != Executed {
		return nil
	}
	return s.prove(ctx, r, it)
}

// by is in whose name a revoke is executed: who decided it.
func (it *Item) by() (audit.Actor, string) {
	v := it.Verdicts[len(it.Verdicts)-1]
	if v.By.ID == "" {
		return audit.System, v.Reason
	}
	return audit.Person(v.By.ID, v.By.Name), v.Reason
}

// execute does what was decided.
func (s *Service) execute(ctx context.Context, r *Review, it *Item) error {
	by, why := it.by()
	reason := cutText("review "+r.Name+": "+why, 1000)
	if it.Subject.Kind == Secret && s.rotates(it) { // has its own clock, and its own events
		if err := s.o.Rotate(ctx, by, reason, it.Subject.Name); err != nil {
			return err
		}
	}
	next := *it
	err := s.change(ctx, func(tx *audit.Tx) error {
		next = *it
		next.Events = slices.Clone(it.Events)
		done, err := s.undo(ctx, tx, by, reason, &next)
		if err != nil && !errors.Is(err, errByHand) {
			return err
		}
		next.Remedy.Done, next.Remedy.At, next.Remedy.Error, next.Remedy.Tries, next.Remediation, next.look = done, s.now(), "", 0, Executed, s.now().Add(patience)
		if err != nil {
			next.Remediation, next.look = ByHand, time.Time{}
			if err := s.stuck(ctx, tx, r, it, done); err != nil {
				return err
			}
		}
		tx.Record(r.itemEvent(&next, id.New(id.Event), "review.executed", by, reason, map[string]any{"done": done}))
		if err := s.step("executing"); err != nil {
			return err
		}
		return saveItem(ctx, tx.Tx, &next)
	})
	if err != nil {
		return err
	}
	*it = next
	return s.step("executed")
}

// undo takes away what an item is about, inside the change, and says in words
// what it did.
func (s *Service) undo(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, it *Item) (string, error) {
	switch it.Subject.Kind {
	case Grant:
		return s.revokeGrant(ctx, tx, by, reason, it)
	case Secret:
		return s.endSecret(ctx, tx, by, reason, it)
	case Owner:
		return s.replaceOwner(ctx, tx, by, reason, it)
	case Connection:
		return s.disable(ctx, tx, by, reason, it, it.Subject.Name)
	}
	return s.dropRule(ctx, tx, by, reason, it)
}

// prove tries that a revoke holds, and says since when it was used.
func (s *Service) prove(ctx context.Context, r *Review, it *Item) error {
	used, err := s.usedSince(ctx, it)
	if err != nil {
		return errors.Join(err, s.again(ctx, r, it, err))
	}
	probes, err := s.probe(ctx, it)
	if err != nil && ctx.Err() == nil && it.Remedy.Tries+1 >= mostTries {
		probes, err = []Probe{{What: "what was revoked", Result: NotTried, Why: fmt.Sprintf("after %d tries it is not tried again: %s", mostTries, fault.Public(err).Message)}}, nil
	}
	if err != nil {
		return errors.Join(err, s.again(ctx, r, it, err))
	}
	if err := s.step("tried"); err != nil {
		return err
	}
	next := *it
	err = s.change(ctx, func(tx *audit.Tx) error {
		next = *it
		next.Events = slices.Clone(it.Events)
		next.Remedy.Probes, next.Remedy.Used, next.Remedy.Error, next.Remediation, next.look = probes, used, "", Success, time.Time{}
		kind := audit.Type("review.revoke_tried")
		if bad := slices.IndexFunc(probes, func(p Probe) bool { return p.Result == LetThrough }); bad >= 0 {
			next.Remediation, kind = Failed, "review.revoke_failed"
			if err := s.alarm(ctx, tx, r, &next, probes[bad]); err != nil {
				return err
			}
		} else if !refused(probes) {
			next.Remediation = Unproven
			if err := s.stuck(ctx, tx, r, it, "It is ended, and nothing shows it. "+said(probes)); err != nil {
				return err
			}
		} else if err := s.o.Findings.CloseObjectTx(ctx, tx, audit.System, itemObject(it), "it was tried now, and refused", RuleStuck, RuleFailed); err != nil {
			return err
		}
		if used != nil {
			if err := s.noteUse(ctx, tx, r, it, used); err != nil {
				return err
			}
		}
		tx.Record(r.itemEvent(&next, id.New(id.Event), kind, audit.System, "", map[string]any{"probes": probes, "used_since": used, "remediation": next.Remediation}))
		return saveItem(ctx, tx.Tx, &next)
	})
	if err == nil {
		*it = next
	}
	return err
}

// refused reports whether any probe shows that a revoke holds.
func refused(probes []Probe) bool {
	return slices.ContainsFunc(probes, func(p Probe) bool { return p.Result == Refused })
}

// said tells what became of probes.
func said(probes []Probe) string {
	var out []string
	for _, p := range probes {
		out = append(out, p.What+": "+p.Result+" ("+p.Why+")")
	}
	return strings.Join(out, "; ")
}

func itemObject(it *Item) string { return "review/" + it.Review + "/" + fmt.Sprint(it.N) }

func (s *Service) alarm(ctx context.Context, tx *audit.Tx, r *Review, it *Item, p Probe) error {
	return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleFailed, Severity: findings.Critical, Object: itemObject(it), Title: it.Subject.Object() + " was revoked in the review " + r.Name + ", and still works",
		Detail: "The " + p.What + " was let through. Find out what allows it, and stop the agent meanwhile: countersign stop " + it.Subject.Agent, Events: []string{p.Event}})
}

func (s *Service) noteUse(ctx context.Context, tx *audit.Tx, r *Review, it *Item, u *Since) error {
	return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleUsed, Severity: findings.Medium, Object: itemObject(it), Title: it.Subject.Object() + " was used after it was decided to revoke it",
		Detail: fmt.Sprintf("%s in the review %s between the decision at %s and its execution at %s. Look at what they did: countersign log show %s", plain(u.Calls, "call"), r.Name,
			it.Decided.Format(time.RFC3339), it.Remedy.At.Format(time.RFC3339), u.Event), Events: []string{u.Event}})
}

func (s *Service) stuck(ctx context.Context, tx *audit.Tx, r *Review, it *Item, why string) error {
	return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: RuleStuck, Severity: findings.High, Object: itemObject(it), Title: "What was revoked in the review " + r.Name + " is not ended, or not tried: " + it.Subject.Object(), Detail: why})
}

// again notes that a revoke could not be executed or tried, and when to go on.
func (s *Service) again(ctx context.Context, r *Review, it *Item, why error) error {
	if errors.Is(why, ErrRaced) || ctx.Err() != nil {
		return nil
	}
	next := *it
	next.Remedy.Tries++
	next.Remedy.Error = fault.Public(why).Message
	next.look = s.now().Add(min(retryFirst<<min(next.Remedy.Tries, 10), retryMost))
	if next.Remedy.Tries == tellAfter {
		if err := s.o.Log.Change(ctx, func(tx *audit.Tx) error { return s.stuck(ctx, tx, r, it, next.Remedy.Error+". It is tried again.") }); err != nil {
			return err
		}
	}
	err := s.o.DB.Tx(ctx, func(tx *storage.Tx) error { return saveItem(ctx, tx, &next) })
	if err == nil {
		*it = next
	}
	return err
}

// mostPages bounds how much of the log is read for uses since a decision.
const mostPages = 20

// usedSince counts the calls that a grant allowed after it was decided to revoke
// it; nil if there are none, or it is no grant.
func (s *Service) usedSince(ctx context.Context, it *Item) (*Since, error) {
	if it.Subject.Kind != Grant {
		return nil, nil
	}
	var out *Since
	q := audit.Query{Agent: it.Subject.Agent, Types: []audit.Type{audit.CallIntent}, Since: it.Decided, Limit: 1000}
	for range mostPages {
		recs, err := s.o.Log.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			if d := rec.Event.Decision; d == nil || !slices.Contains(d.Grants, it.Subject.Name) {
				continue
			}
			if out == nil {
				out = &Since{Last: rec.Event.Time, Event: rec.Event.ID}
			}
			out.Calls++
		}
		if len(recs) < q.Limit {
			break
		}
		q.After = recs[len(recs)-1].Event.ID
	}
	return out, nil
}

func cutText(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
