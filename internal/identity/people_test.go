package identity_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func TestOnlyAdministratorsChangeUsers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.user("opal", identity.Operator)
		opal, _ := w.User("opal")
		by := audit.Person(opal.ID, "opal")
		for what, err := range map[string]error{
			"make himself administrator": second(w.PutUser(ctx, by, "", identity.User{Name: "opal", Role: identity.Admin})),
			"make another":               second(w.PutUser(ctx, by, "", identity.User{Name: "mole", Role: identity.Admin})),
			"delete":                     w.DeleteUser(ctx, by, "", "bob"),
			"set another's password":     w.SetPassword(ctx, by, "", "root", "", "correct horse battery"),
			"as an agent":                second(w.PutUser(ctx, audit.Actor{Kind: audit.KindAgent, Name: "root"}, "", identity.User{Name: "mole", Role: identity.Admin})),
			"under another's name":       second(w.PutUser(ctx, audit.Person(opal.ID, "root"), "", identity.User{Name: "mole", Role: identity.Admin})),
		} {
			if !errors.Is(err, identity.ErrAdminOnly) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if changed, err := w.PutUser(ctx, by, "", identity.User{Name: "opal", Role: identity.Operator}); changed || err != nil {
			t.Errorf("changing nothing: %v %v", changed, err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestTheLastAdministratorStays(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for what, err := range map[string]error{
			"demote":  second(w.PutUser(ctx, w.admin, "", identity.User{Name: "root", Role: identity.Viewer})),
			"disable": second(w.PutUser(ctx, w.admin, "", identity.User{Name: "root", Role: identity.Admin, Disabled: true})),
			"delete":  w.DeleteUser(ctx, w.admin, "", "root"),
		} {
			if !errors.Is(err, identity.ErrLastAdmin) {
				t.Errorf("%s: %v", what, err)
			}
		}
		w.user("second", identity.Admin)
		w.must(w.DeleteUser(ctx, w.admin, "", "root"))
	})
}

func TestDeletingWhatIsInUse(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, name := range []string{"ada", "bob"} {
			err := w.DeleteUser(ctx, w.admin, "", name)
			if !errors.Is(err, identity.ErrInUse) || !strings.Contains(err.Error(), "bot") {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err := w.PutTeam(ctx, w.admin, "", identity.Team{Name: "finance", Members: []string{"bob", "ada", "bob"}})
		w.must(err)
		_, err = w.PutAgent(ctx, w.admin, "", identity.Agent{Name: "bot", Owner: "ada", Team: "finance", Stage: identity.Production})
		w.must(err)
		if err := w.DeleteTeam(ctx, w.admin, "", "finance"); !errors.Is(err, identity.ErrInUse) || !strings.Contains(err.Error(), "bot") {
			t.Errorf("team: %v", err)
		}
		w.must(w.DeleteUser(ctx, w.admin, "", "bob")) // a member and no longer backup
		if team, _ := w.Team("finance"); !slices.Equal(team.Members, []string{"ada"}) {
			t.Errorf("members %v", team.Members)
		}
		boom := errors.New("owns a connection")
		w.OnDelete(func(_ context.Context, _ *audit.Tx, _ audit.Actor, _, object string) error {
			if object == "agent/bot" {
				return boom
			}
			return nil
		})
		if err := w.DeleteAgent(ctx, w.admin, "", "bot"); !errors.Is(err, boom) {
			t.Errorf("another room was not asked: %v", err)
		}
	})
}

func TestAgentsThatAreRefused(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, err := w.PutUser(ctx, w.admin, "", identity.User{Name: "gone", Role: identity.Owner, Disabled: true})
		w.must(err)
		good := identity.Agent{Name: "good", Owner: "ada", Stage: identity.Staging}
		for what, change := range map[string]func(a *identity.Agent){
			"no name":          func(a *identity.Agent) { a.Name = "" },
			"capital":          func(a *identity.Agent) { a.Name = "Bot" },
			"path":             func(a *identity.Agent) { a.Name = "../bot" },
			"line break":       func(a *identity.Agent) { a.Name = "bot\n" },
			"long name":        func(a *identity.Agent) { a.Name = strings.Repeat("a", 64) },
			"no owner":         func(a *identity.Agent) { a.Owner = "" },
			"unknown owner":    func(a *identity.Agent) { a.Owner = "nobody" },
			"disabled owner":   func(a *identity.Agent) { a.Owner = "gone" },
			"own backup":       func(a *identity.Agent) { a.Backup = "ada" },
			"unknown backup":   func(a *identity.Agent) { a.Backup = "nobody" },
			"unknown team":     func(a *identity.Agent) { a.Team = "nobodies" },
			"unknown stage":    func(a *identity.Agent) { a.Stage = "prod" },
			"no stage":         func(a *identity.Agent) { a.Stage = "" },
			"long purpose":     func(a *identity.Agent) { a.Purpose = strings.Repeat("x", 2001) },
			"terminal escape":  func(a *identity.Agent) { a.Purpose = "\x1b[2Jpwned" },
			"invalid UTF-8":    func(a *identity.Agent) { a.Purpose = "\xff" },
			"reversed writing": func(a *identity.Agent) { a.BusinessProcess = "\u202eevil" },
			"label name":       func(a *identity.Agent) { a.Labels = map[string]string{"A B": "x"} },
			"label value":      func(a *identity.Agent) { a.Labels = map[string]string{"a": strings.Repeat("x", 129)} },
			"NUL":              func(a *identity.Agent) { a.Labels = map[string]string{"a": "\x00"} },
		} {
			a := good
			change(&a)
			if _, err := w.PutAgent(ctx, w.admin, "because", a); !errors.Is(err, identity.ErrInvalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := len(w.Agents()); n != 1 {
			t.Errorf("%d agents", n)
		}
	})
}

func TestOwnerChangeNeedsAReason(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		bot, _ := w.Agent("bot")
		bot.Owner, bot.Backup = "bob", "ada"
		if _, err := w.PutAgent(ctx, w.admin, " ", bot); !errors.Is(err, identity.ErrReason) {
			t.Errorf("put: %v", err)
		}
		for what, err := range map[string]error{
			"set owner": second(w.SetOwner(ctx, w.admin, "", "bot", "bob", "")),
			"suspend":   second(w.Suspend(ctx, w.admin, "", "bot")),
			"resume":    second(w.Resume(ctx, w.admin, "", "bot")),
			"a novel":   second(w.Suspend(ctx, w.admin, strings.Repeat("x", 1001), "bot")),
		} {
			if !errors.Is(err, identity.ErrReason) {
				t.Errorf("%s: %v", what, err)
			}
		}
		changed, err := w.SetOwner(ctx, w.admin, "ada moves on", "bot", "bob", "")
		if a, _ := w.Agent("bot"); err != nil || !changed || a.Owner != "bob" || a.Backup != "" {
			t.Errorf("%v %v %+v", changed, err, a)
		}
	})
}

func TestEveryChangeIsAnEventWithWhoAndWhy(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		before := len(w.events())
		why := "because of the audit"
		do := func(err error) { t.Helper(); w.must(err) }
		do(second(w.PutUser(ctx, w.admin, why, identity.User{Name: "eva", Role: identity.Viewer, Email: "eva@example.com"})))
		do(second(w.PutUser(ctx, w.admin, why, identity.User{Name: "eva", Role: identity.Owner, Disabled: true})))
		do(second(w.PutUser(ctx, w.admin, why, identity.User{Name: "eva", Role: identity.Owner})))
		do(w.SetPassword(ctx, w.admin, why, "eva", "", "correct horse battery"))
		do(second(w.PutTeam(ctx, w.admin, why, identity.Team{Name: "ops"})))
		do(second(w.PutTeam(ctx, w.admin, why, identity.Team{Name: "ops", Members: []string{"eva"}})))
		do(second(w.PutAgent(ctx, w.admin, why, identity.Agent{Name: "new", Owner: "eva", Team: "ops", Stage: identity.Development})))
		do(second(w.PutAgent(ctx, w.admin, why, identity.Agent{Name: "new", Owner: "ada", Stage: identity.Staging})))
		do(second(w.Suspend(ctx, w.admin, why, "new")))
		do(second(w.Resume(ctx, w.admin, why, "new")))
		k, _, err := w.IssueKey(ctx, w.admin, why, "new", 0)
		do(err)
		_, _, err = w.RotateKey(ctx, w.admin, why, k.ID, 0, 0)
		do(err)
		do(w.RevokeKey(ctx, w.admin, why, k.ID))
		r, _, err := w.StartRun(ctx, w.admin, why, "new", 0)
		do(err)
		do(w.EndRun(ctx, w.admin, why, r.ID))
		tok, _, err := w.IssueToken(ctx, w.admin, why, "ci", 0)
		do(err)
		do(w.RevokeToken(ctx, w.admin, why, tok.ID))
		do(w.DeleteAgent(ctx, w.admin, why, "new"))
		do(w.DeleteTeam(ctx, w.admin, why, "ops"))
		do(w.DeleteUser(ctx, w.admin, why, "eva"))
		want := "user.created user.updated user.disabled user.enabled user.password_set team.created team.updated agent.created agent.owner_changed agent.updated " +
			"agent.suspended agent.resumed agent.key_issued agent.key_rotated agent.key_revoked run.started run.ended user.token_issued user.token_revoked " +
			"agent.deleted team.deleted user.deleted"
		var got []string
		for _, e := range w.events()[before:] {
			got = append(got, string(e.Type))
			if e.Actor != w.admin || e.Reason != why || e.Object == "" {
				t.Errorf("%s by %v because %q about %q", e.Type, e.Actor, e.Reason, e.Object)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("got  %s\nwant %s", strings.Join(got, " "), want)
		}
	})
}

func TestDoingItTwiceChangesNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		bot, _ := w.Agent("bot")
		_, err := w.PutTeam(ctx, w.admin, "", identity.Team{Name: "ops", Members: []string{"bob", "ada"}})
		w.must(err)
		k, _ := w.key(0)
		r, _ := w.run(0)
		w.must(w.RevokeKey(ctx, w.admin, "", k.ID))
		w.must(w.EndRun(ctx, w.admin, "", r.ID))
		before := len(w.events())
		for what, again := range map[string]func() (bool, error){
			"agent": func() (bool, error) { return w.PutAgent(ctx, w.admin, "", bot) },
			"user": func() (bool, error) {
				return w.PutUser(ctx, w.admin, "", identity.User{Name: "ada", Role: identity.Owner})
			},
			"team": func() (bool, error) {
				return w.PutTeam(ctx, w.admin, "", identity.Team{Name: "ops", Members: []string{"ada", "bob"}})
			},
			"resume": func() (bool, error) { return w.Resume(ctx, w.admin, "x", "bot") },
			"revoke": func() (bool, error) { return false, w.RevokeKey(ctx, w.admin, "", k.ID) },
			"end":    func() (bool, error) { return false, w.EndRun(ctx, w.admin, "", r.ID) },
		} {
			if changed, err := again(); changed || err != nil {
				t.Errorf("%s: %v %v", what, changed, err)
			}
		}
		if n := len(w.events()); n != before {
			t.Errorf("%d events more", n-before)
		}
	})
}

func TestSigningIn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const password = "correct horse battery"
		w.must(w.SetPassword(ctx, w.admin, "", "ada", "", password))
		tok, value, err := w.Login(ctx, "ada", password, "192.0.2.1")
		w.must(err)
		c, err := w.AuthenticateUser(ctx, value)
		if err != nil || c.Name != "ada" || c.Role != identity.Owner || c.May(rest.Write) || c.Credential != tok.ID {
			t.Errorf("%+v %v", c, err)
		}
		for what, try := range map[string][2]string{
			"wrong password": {"ada", "correct horse batterx"},
			"no password":    {"ada", ""},
			"never set":      {"bob", ""},
			"unknown":        {"nobody", password},
			"hostile name":   {"' OR 1=1 --", password},
			"long password":  {"ada", strings.Repeat("x", 1<<20)},
		} {
			if _, _, err := w.Login(ctx, try[0], try[1], "192.0.2.7"); !errors.Is(err, identity.ErrLogin) {
				t.Errorf("%s: %v", what, err)
			}
		}
		w.refusalsAreRecorded()
		w.clock.pass(identity.SessionLife)
		if _, err := w.AuthenticateUser(ctx, value); !errors.Is(err, identity.ErrToken) {
			t.Errorf("an expired session: %v", err)
		}
		for what, token := range map[string]string{"malformed": "csu_x", "an agent's": mintLike("csk_"), "unknown": mintLike("csu_")} {
			if _, err := w.AuthenticateUser(ctx, token); !errors.Is(err, identity.ErrToken) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := w.AuthenticateUser(ctx, ""); !errors.Is(err, rest.ErrNoToken) {
			t.Errorf("none: %v", err)
		}
	})
}

// refusalsAreRecorded: refused sign-ins are in the log, naming users that there
// are and repeating nothing else that was typed. It closes the log.
func (w *world) refusalsAreRecorded() {
	w.t.Helper()
	w.must(w.log.Close(ctx))
	rows, err := w.db.Query(ctx, `SELECT record FROM events WHERE type = $1`, string(audit.AuthRefused))
	w.must(err)
	defer rows.Close()
	records := ""
	for rows.Next() {
		var raw []byte
		w.must(rows.Scan(&raw))
		records += string(raw)
	}
	w.must(rows.Err())
	if !strings.Contains(records, `"ada"`) || !strings.Contains(records, "192.0.2.7") || strings.Contains(records, "nobody") || strings.Contains(records, "OR 1=1") {
		w.t.Errorf("refused sign-ins: %s", records)
	}
}

func TestWhatEndsASession(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		password := "correct horse battery"
		w.must(w.SetPassword(ctx, w.admin, "", "ada", "", password))
		ada, _ := w.User("ada")
		by := audit.Person(ada.ID, "ada")
		for what, end := range map[string]func(identity.Token) error{
			"logout":       func(s identity.Token) error { return w.Logout(ctx, by, s.ID) },
			"revocation":   func(s identity.Token) error { return w.RevokeToken(ctx, w.admin, "stolen", s.ID) },
			"new password": func(identity.Token) error { return w.SetPassword(ctx, by, "", "ada", password, password) },
		} {
			s, value, err := w.Login(ctx, "ada", password, "192.0.2.1")
			w.must(err)
			w.must(end(s))
			if _, err := w.AuthenticateUser(ctx, value); !errors.Is(err, identity.ErrToken) {
				t.Errorf("%s: %v", what, err)
			}
			w.clock.pass(time.Minute)
		}
		s, value, err := w.Login(ctx, "ada", password, "192.0.2.1")
		w.must(err)
		bob, _ := w.User("bob")
		if err := w.RevokeToken(ctx, audit.Person(bob.ID, "bob"), "", s.ID); !errors.Is(err, identity.ErrNotFound) {
			t.Errorf("bob ended ada's session: %v", err)
		}
		if err := w.SetPassword(ctx, by, "", "ada", "wrong", password); !errors.Is(err, identity.ErrLogin) {
			t.Errorf("a password was changed without the current one: %v", err)
		}
		_, err = w.PutUser(ctx, w.admin, "left", identity.User{Name: "ada", Role: identity.Owner, Disabled: true})
		w.must(err)
		if _, err := w.AuthenticateUser(ctx, value); !errors.Is(err, identity.ErrToken) {
			t.Errorf("a disabled user: %v", err)
		}
		if _, _, err := w.Login(ctx, "ada", password, "192.0.2.1"); !errors.Is(err, identity.ErrLogin) {
			t.Errorf("a disabled user signed in: %v", err)
		}
	})
}

func TestLoginFloodsAreLimited(t *testing.T) {
	w := settle(t, storagetest.Open(t, storagetest.SQLite(t)))
	limited := func(name, remote func(i int) string) int {
		for i := range 100 {
			if _, _, err := w.Login(ctx, name(i), "wrong", remote(i)); errors.Is(err, identity.ErrLoginLimit) {
				return i
			}
		}
		return -1
	}
	if n := limited(func(int) string { return "bob" }, func(i int) string { return fmt.Sprintf("10.%d.0.1", i) }); n != 10 {
		t.Errorf("one name from many networks: limited after %d", n)
	}
	if n := limited(func(i int) string { return fmt.Sprintf("user%d", i) }, func(i int) string { return fmt.Sprintf("2001:db8:0:%x::%x", i, i) }); n != 30 {
		t.Errorf("many names from one network: limited after %d", n)
	}
	w.clock.pass(6 * time.Second)
	if _, _, err := w.Login(ctx, "bob", "wrong", "10.200.0.1"); !errors.Is(err, identity.ErrLogin) {
		t.Errorf("still limited: %v", err)
	}
}

func TestFirstAdministrator(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := open(t, db)
		other := join(t, w.db, w.log, w.clock)
		tokens := make([]string, 2)
		var wg sync.WaitGroup
		for i, s := range []*world{w, other} {
			wg.Go(func() {
				token, created, err := s.EnsureAdmin(ctx)
				if err != nil || created != (token != "") {
					t.Errorf("%v %v", created, err)
				}
				tokens[i] = token
			})
		}
		wg.Wait()
		token := tokens[0] + tokens[1]
		c, err := w.AuthenticateUser(ctx, token) // fails if both made one
		if err != nil || c.Role != identity.Admin || !c.May(rest.Write) {
			t.Fatalf("%+v %v", c, err)
		}
		if _, created, err := w.EnsureAdmin(ctx); created || err != nil {
			t.Errorf("again: %v %v", created, err)
		}
		w.clock.pass(identity.TokenMost)
		token, created, err := w.EnsureAdmin(ctx)
		if err != nil || !created {
			t.Fatalf("nobody can sign in any more: %v %v", created, err)
		}
		if _, err := w.AuthenticateUser(ctx, token); err != nil {
			t.Error(err)
		}
	})
}

func TestUseIsStoredAtMostOnceAMinute(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, key := w.key(0)
		c, err := w.present(key)
		w.must(err)
		used := func() time.Time {
			t.Helper()
			w.must(w.Flush(ctx))
			keys, err := w.Keys(ctx, "bot")
			w.must(err)
			return keys[0].LastUsed
		}
		if got := used(); !got.IsZero() {
			t.Errorf("used at %v before it was", got)
		}
		first := w.clock.now()
		w.Used(c, first)
		if got := used(); !got.Equal(first) {
			t.Errorf("first use: %v", got)
		}
		w.clock.pass(30 * time.Second)
		w.Used(c, w.clock.now())
		w.Used(c, first.Add(-time.Hour)) // late news change nothing
		if got := used(); !got.Equal(first) {
			t.Errorf("within the minute: %v", got)
		}
		w.clock.pass(30 * time.Second)
		if got := used(); !got.Equal(first.Add(30 * time.Second)) {
			t.Errorf("after the minute: %v", got)
		}
		w.must(w.Start(ctx))
		w.clock.pass(2 * time.Minute)
		w.Used(c, w.clock.now())
		w.must(w.Stop(ctx))
		keys, err := w.Keys(ctx, "bot")
		w.must(err)
		if !keys[0].LastUsed.Equal(w.clock.now()) {
			t.Errorf("after Stop: %v", keys[0].LastUsed)
		}
	})
}
