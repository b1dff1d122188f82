package approvals_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
)

func (w *world) notices(name string) (out []string) {
	w.t.Helper()
	found, err := w.Notices(ctx, w.by(name).ID, false)
	w.must(err)
	for _, n := range found {
		out = append(out, string(n.Kind)+" by "+n.By+": "+n.Said)
	}
	return out
}

// A question reaches the owner, the answer whoever asked.
func TestAQuestionReachesTheOwner(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x")).Request.ID
		w.must(w.Comment(ctx, w.by("fiona"), id, "is hunter2 right?", true))
		if got := w.notices("olga"); !slices.Equal(got, []string{"asked by fiona: is [redacted:known] right?"}) {
			t.Errorf("%q", got)
		}
		w.must(w.Comment(ctx, w.by("carl"), id, "I wonder too", false))
		if got := w.notices("fiona"); len(got) != 0 {
			t.Errorf("told of a remark that is no answer: %q", got)
		}
		w.must(w.Comment(ctx, w.by("olga"), id, "it is", false))
		if got := w.notices("fiona"); !slices.Equal(got, []string{"answered by olga: it is"}) {
			t.Errorf("%q", got)
		}
		all, err := w.Notices(ctx, w.by("olga").ID, false)
		w.must(err)
		if err := w.See(ctx, w.by("fiona").Person, all[0].ID); !errors.Is(err, approvals.ErrNoNotice) {
			t.Errorf("someone else saw it: %v", err)
		}
		w.must(w.See(ctx, w.by("olga").Person, all[0].ID))
		if err := w.See(ctx, w.by("olga").Person, all[0].ID); !errors.Is(err, approvals.ErrNoNotice) || len(w.notices("olga")) != 0 {
			t.Errorf("seen twice: %v", err)
		}
		w.disable("olga")
		if err := w.Comment(ctx, w.by("fiona"), id, "and now?", true); !errors.Is(err, approvals.ErrNoOwner) {
			t.Errorf("asked nobody: %v", err)
		}
	})
}

// Everyone passed over learns that the glass was broken, and only somebody
// else can close the review.
func TestABrokenGlassIsToldAndReviewed(t *testing.T) {
	each(t, func(w *world) {
		id := w.hold(w.held("x")).Request.ID
		_, err := w.Override(ctx, w.by("root"), id, "the bank closes")
		w.must(err)
		for _, name := range []string{"fiona", "carl", "olga"} {
			if got := w.notices(name); !slices.Equal(got, []string{"overridden by root: glass broken: the bank closes"}) {
				t.Errorf("%s: %q", name, got)
			}
		}
		if got := append(w.notices("root"), w.notices("lee")...); len(got) != 0 {
			t.Errorf("%q", got)
		}
		open, err := w.findings.List(ctx, findings.Query{Rule: "approval.overridden"})
		w.must(err)
		if len(open) != 1 || open[0].NotBy != w.by("root").ID || !strings.Contains(open[0].Detail, "carl, fiona, olga") {
			t.Fatalf("%+v", open)
		}
		if err := w.findings.Close(ctx, w.by("root").Actor(), open[0].ID, "I was right"); !errors.Is(err, findings.ErrNotYou) {
			t.Errorf("closed by whom it is about: %v", err)
		}
		w.must(w.findings.Close(ctx, w.by("carl").Actor(), open[0].ID, "it was right"))
	})
}

// Who stood in for someone when they decided must do so still when the call is
// made.
func TestADelegationThatEndedDoesNotCount(t *testing.T) {
	for name, end := range map[string]func(w *world, id string){
		"its time is over": func(w *world, _ string) { w.pass(10 * time.Minute) },
		"ended": func(w *world, id string) {
			w.must(w.EndDelegation(ctx, audit.Person(w.by("carl").ID, "carl"), "back", id))
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				d, err := w.Delegate(ctx, audit.Person(w.by("carl").ID, "carl"), "away", "carl", "dora", time.Time{}, w.clock().Add(8*time.Minute))
				w.must(err)
				h := w.held("x")
				id := w.hold(h).Request.ID
				w.approve("dora", id)
				end(w, d.ID)
				a, err := w.Hold(ctx, h)
				w.must(err)
				if a.Permit != nil || w.state(id) != approvals.Void {
					t.Errorf("made with a delegation that had ended: %s", w.state(id))
				}
			})
		})
	}
}

// What is told has happened, and what happened is told: in the same change.
func TestNewsIsPartOfTheChange(t *testing.T) {
	each(t, func(w *world) {
		var got []string
		fail := errors.New("no")
		var err error
		s := w.room(approvals.Options{Tell: func(_ context.Context, tx *audit.Tx, n approvals.News) error {
			if err != nil {
				return err
			}
			got = append(got, string(n.What)+" "+string(n.Request.State)+" "+n.By)
			return nil
		}})
		a, herr := s.Hold(ctx, w.held("x"))
		w.must(herr)
		_, derr := s.Decide(ctx, w.by("fiona"), a.Request.ID, approvals.Deny, "no")
		w.must(derr)
		if want := []string{"requested pending ", "settled denied fiona"}; !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		err = fail
		if _, herr := s.Hold(ctx, w.held("y")); !errors.Is(herr, fail) {
			t.Errorf("a request without its news: %v", herr)
		}
		if found, lerr := s.List(ctx, approvals.Query{}); lerr != nil || len(found) != 1 {
			t.Errorf("%d requests, %v", len(found), lerr)
		}
	})
}
