package reviews_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func (w *world) ask(who string, tools ...string) (reviews.GrantRequest, error) {
	c := w.user(who)
	return w.Service.Ask(ctx, reviews.Asker{Actor: audit.Person(c.ID, c.Name), MayForeign: c.May(rest.Write)}, "the quarter ends", reviews.Wish{Agent: "payer", Connection: "model", Tools: tools, For: "1h"})
}

func (w *world) answer(who, request string, v approvals.Verdict) error {
	c := w.user(who)
	_, err := w.asks.Decide(ctx, approvals.By{Person: approvals.Person{ID: c.ID, Name: c.Name}, Channel: "api", Credential: "tok_1"}, request, v, "because")
	return err
}

// made has the server make what was approved, as its executor does.
func (w *world) made(request string) error {
	r, err := w.asks.Get(ctx, request)
	w.must(err)
	return w.Give(ctx, r)
}

func (w *world) may(tool string) bool {
	w.must(w.watch.Poll(ctx))
	return w.policy.Reach(policy.Agent{Name: "payer", Stage: "production", Owner: "ada"}, policy.Action{Connection: "model", Tool: tool, Effect: "read", Kind: "llm"}).Possible
}

// TestAGrantThatIsAskedFor is given when people have approved, once, and ends.
func TestAGrantThatIsAskedFor(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		if _, err := w.ask("ada", "models"); !errors.Is(err, reviews.ErrNoApprovers) {
			t.Errorf("without anybody who approves: %v", err)
		}
		_, err := w.SetApprovers(ctx, w.person("root"), "test", reviews.Approvers{Connection: "*", Groups: []string{"finance"}})
		w.must(err)
		g, err := w.ask("ada", "models")
		w.must(err)
		if g.State != "pending" || g.By != "ada" || w.may("models") {
			t.Errorf("%+v", g)
		}
		if again, err := w.ask("ada", "models"); err != nil || again.ID != g.ID {
			t.Errorf("the same wish is another request: %v", err)
		}
		// ada is of the group, and asked.
		if err := w.answer("ada", g.ID, approvals.Approve); !errors.Is(err, approvals.ErrSelf) {
			t.Errorf("who asked approves: %v", err)
		}
		if err := w.answer("bob", g.ID, approvals.Approve); !errors.Is(err, approvals.ErrNotEntitled) {
			t.Errorf("%v", err)
		}
		if err := w.made(g.ID); err == nil && w.may("models") {
			t.Error("given without an approval")
		}
		w.must(w.answer("fin", g.ID, approvals.Approve))
		w.must(w.made(g.ID))
		_ = w.made(g.ID) // another replica
		found, err := w.Requests(ctx, "payer", true)
		w.must(err)
		if len(found) != 1 || found[0].State != "given" || !w.may("models") {
			t.Fatalf("%+v", found)
		}
		given, err := w.policy.Grant(ctx, found[0].Grant)
		w.must(err)
		if left := time.Until(given.Expires); left > time.Hour || left < 50*time.Minute || given.GivenBy != "fin" {
			t.Errorf("%+v", given)
		}
		// Neither who asked nor who approved reviews it.
		r := w.begin(reviews.Rules{Levels: [][]string{{"owner", "group:finance", "backup"}}}, given.Name)
		if got := r.Items[0].Reviewers; len(got) != 1 || got[0] != "bob" {
			t.Errorf("reviewers of a grant that ada asked for and fin approved: %v", got)
		}
		// It ends by itself, also on a replica that learns nothing more: policy looks at the time.
		once := storage.NewWatcher(w.db, quiet)
		replica, err := policy.New(w.db, w.log, once, toolTypes{w.conns}, policy.Options{Now: w.clock})
		w.must(err)
		w.must(once.Poll(ctx))
		call := policy.Request{Agent: policy.Agent{Name: "payer", Stage: "production", Owner: "ada"}, Action: policy.Action{Connection: "model", Tool: "models", Effect: "read", Kind: "llm"}, Args: []byte(`{}`)}
		for _, c := range []struct {
			after time.Duration
			want  bool
		}{{59 * time.Minute, true}, {2 * time.Minute, false}} {
			w.pass(c.after)
			if can, d := replica.Reach(call.Agent, call.Action).Possible, replica.Decide(call); can != c.want || (d.Effect == policy.Allow) != c.want {
				t.Errorf("%s more: possible %v, decided %s", c.after, can, d.Effect)
			}
		}
		w.grant("dan", "lasts", "models")
		w.must(once.Poll(ctx))
		if by := replica.Reach(call.Agent, call.Action).By; !slices.Equal(by, []string{"grant lasts"}) {
			t.Errorf("allowed by %v", by)
		}
		if found, err = w.Requests(ctx, "", false); err != nil || found[0].State != "ended" {
			t.Errorf("%v %+v", err, found)
		}
	})
}

// TestAGrantSurvivesAKill dies while an approved grant is given: nothing is used up,
// and another process gives it, once.
func TestAGrantSurvivesAKill(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		_, err := w.SetApprovers(ctx, w.person("root"), "test", reviews.Approvers{Connection: "*", Groups: []string{"finance"}})
		w.must(err)
		g, err := w.ask("ada", "models")
		w.must(err)
		w.must(w.answer("fin", g.ID, approvals.Approve))
		died := errors.New("killed")
		w.Die(func(at string) error {
			if at == "giving" {
				return died
			}
			return nil
		})
		if err := w.made(g.ID); !errors.Is(err, died) {
			t.Fatalf("it did not die: %v", err)
		}
		if r, err := w.asks.Get(ctx, g.ID); err != nil || r.State != approvals.Approved || w.may("models") {
			t.Errorf("%v: the approval is %s", err, r.State)
		}
		w.Service = w.process()
		w.must(w.made(g.ID))
		_ = w.made(g.ID) // a third one
		if r, err := w.asks.Get(ctx, g.ID); err != nil || r.State != approvals.Executed || r.Outcome != audit.Succeeded || !w.may("models") {
			t.Errorf("%v %+v", err, r)
		}
		for _, kind := range []audit.Type{"approval.used", "approval.executed", "grant.given", "grant.requested"} {
			recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{kind}})
			w.must(err)
			n := 0
			for _, r := range recs {
				if r.Event.Object == "approval/"+g.ID || strings.HasPrefix(r.Event.Object, "grant/asked-") {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d times %s", n, kind)
			}
		}
	})
}

// TestWhatCannotBeAskedFor is refused, and an approval is for exactly what was shown.
func TestWhatCannotBeAskedFor(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	_, err := w.SetApprovers(ctx, w.person("root"), "test", reviews.Approvers{Connection: "model", Groups: []string{"finance"}, Longest: "2h"})
	w.must(err)
	for name, c := range map[string]struct {
		who  string
		wish reviews.Wish
		want error
	}{
		"everything":  {"ada", reviews.Wish{Agent: "payer", Connection: "model", Tools: []string{"*"}}, reviews.ErrAsk},
		"nothing":     {"ada", reviews.Wish{Agent: "payer", Connection: "model"}, reviews.ErrAsk},
		"too long":    {"ada", reviews.Wish{Agent: "payer", Connection: "model", Tools: []string{"models"}, For: "3h"}, reviews.ErrAsk},
		"no tool":     {"ada", reviews.Wish{Agent: "payer", Connection: "model", Tools: []string{"fly"}}, policy.ErrProblems},
		"smuggled":    {"ada", reviews.Wish{Agent: "payer", Connection: "model", Tools: []string{"models"}, When: "true }; permit(principal, action, resource) when { true"}, policy.ErrProblems},
		"no agent":    {"ada", reviews.Wish{Agent: "ghost", Connection: "model", Tools: []string{"models"}}, reviews.ErrAsk},
		"not theirs":  {"fin", reviews.Wish{Agent: "payer", Connection: "model", Tools: []string{"models"}}, reviews.ErrNotFor},
		"unapproved":  {"ada", reviews.Wish{Agent: "payer", Connection: "other", Tools: []string{"models"}}, reviews.ErrNoApprovers},
		"no approver": {"dan", reviews.Wish{Agent: "payer", Connection: "model", Tools: []string{"models"}}, nil},
	} {
		u := w.user(c.who)
		_, err := w.Service.Ask(ctx, reviews.Asker{Actor: audit.Person(u.ID, u.Name), MayForeign: c.who == "dan"}, "because", c.wish)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.ask("ada", "models"); err != nil {
		t.Error(err)
	}
	u := w.user("ada")
	if _, err := w.Service.Ask(ctx, reviews.Asker{Actor: audit.Person(u.ID, u.Name)}, "", reviews.Wish{Agent: "payer", Connection: "model", Tools: []string{"models"}}); !errors.Is(err, reviews.ErrReason) {
		t.Errorf("%v", err)
	}
	// Nobody is left who could approve: refused at once.
	w.disable("fin")
	if _, err := w.ask("ada", "embeddings"); !errors.Is(err, approvals.ErrImpossible) {
		t.Errorf("%v", err)
	}
	// Who may approve changed: what waits is void.
	u2, _ := w.ids.User("fin")
	u2.Disabled = false
	_, err = w.ids.PutUser(ctx, w.person("root"), "back", u2)
	w.must(err)
	g, err := w.ask("ada", "embeddings")
	w.must(err)
	_, err = w.SetApprovers(ctx, w.person("root"), "test", reviews.Approvers{Connection: "model", Groups: []string{"finance"}, Quorum: 2})
	w.must(err)
	if err := w.answer("fin", g.ID, approvals.Approve); !errors.Is(err, approvals.ErrVoid) {
		t.Errorf("approved by who may not any more alone: %v", err)
	}
	w.must(w.RemoveApprovers(ctx, w.person("root"), "test", "model"))
	if w.Offers(ctx) {
		t.Error("something is offered that nobody approves")
	}
}

// TestAnAgentAsks by itself, and learns how its own request stands.
func TestAnAgentAsks(t *testing.T) {
	w := build(t, storagetest.SQLite(t))
	_, err := w.SetApprovers(ctx, w.person("root"), "test", reviews.Approvers{Connection: "model", Groups: []string{"finance"}, Apart: true})
	w.must(err)
	_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "other", Owner: "bob", Stage: "production", Purpose: "x"})
	w.must(err)
	a, _ := w.ids.Agent("payer")
	who := identity.Caller{Agent: a, Run: id.New(id.Run)}
	said, g, err := w.AskFor(ctx, who, approvals.Origin{Front: reviews.Front}, "", "a customer waits", reviews.Wish{Agent: "other", Connection: "model", Tools: []string{"models"}})
	w.must(err)
	if g.Agent != "payer" || g.By != "payer" || !strings.HasPrefix(said, "Pending: finance decides") {
		t.Errorf("%q %+v", said, g)
	}
	o, _ := w.ids.Agent("other")
	if _, _, err := w.AskFor(ctx, identity.Caller{Agent: o}, approvals.Origin{}, g.ID, "", reviews.Wish{}); !errors.Is(err, reviews.ErrNoRequest) {
		t.Errorf("another agent learns of it: %v", err)
	}
	if err := w.answer("ada", g.ID, approvals.Approve); !errors.Is(err, approvals.ErrSelf) { // its owner, where others are wanted
		t.Errorf("%v", err)
	}
	w.must(w.answer("fin", g.ID, approvals.Deny))
	if said, _, err = w.AskFor(ctx, who, approvals.Origin{}, g.ID, "", reviews.Wish{}); err != nil || !strings.HasPrefix(said, "Not given (denied)") {
		t.Errorf("%v %q", err, said)
	}
	// An administrator breaks the glass; it is given all the same, and louder.
	w.must(w.RemoveApprovers(ctx, w.person("root"), "test", "model"))
	_, err = w.SetApprovers(ctx, w.person("root"), "test", reviews.Approvers{Connection: "model", Groups: []string{"finance"}})
	w.must(err)
	_, g, err = w.AskFor(ctx, who, approvals.Origin{}, "", "it burns", reviews.Wish{Connection: "model", Tools: []string{"embeddings"}})
	w.must(err)
	root := w.user("root")
	_, err = w.asks.Override(ctx, approvals.By{Person: approvals.Person{ID: root.ID, Name: root.Name}, Channel: "api", Credential: "tok_1"}, g.ID, "nobody is awake")
	w.must(err)
	w.must(w.made(g.ID))
	found, err := w.Requests(ctx, "payer", true)
	w.must(err)
	if len(found) != 1 || found[0].State != "given" || !found[0].Override {
		t.Errorf("%+v", found)
	}
	loud := 0
	for _, f := range w.open("") {
		if strings.Contains(f.Object, g.ID) {
			loud++
		}
	}
	if loud == 0 {
		t.Error("a broken glass leaves no finding")
	}
}
