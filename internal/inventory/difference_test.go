package inventory_test

import (
	"context"
	"crypto/sha256"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var ctx = context.Background()

// world is the real rooms on one database.
type world struct {
	*inventory.Service
	t       *testing.T
	log     *audit.Log
	ids     *identity.Service
	conns   *connections.Service
	policy  *policy.Service
	secrets *secrets.Service
	watch   *storage.Watcher
	now     time.Time
	options inventory.Options
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

type toolTypes struct{ *connections.Service }

func (t toolTypes) ToolTypes() (out []policy.ToolType) {
	for _, x := range t.Service.ToolTypes() {
		out = append(out, policy.ToolType(x))
	}
	return out
}

func build(t *testing.T, dsn string) *world {
	t.Helper()
	db, err := storage.Open(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, watch: storage.NewWatcher(db, slog.New(slog.DiscardHandler)), now: time.Now()}
	scanner := inspection.New()
	w.log, err = audit.Open(ctx, db, audit.Options{Redactor: scanner, Keeper: audittest.Keeper("k")})
	w.must(err)
	t.Cleanup(func() { w.log.Close(ctx) })
	keys, err := secrets.OpenKeys(ctx, filepath.Join(t.TempDir(), "key"), "")
	w.must(err)
	t.Cleanup(func() { keys.Close() })
	w.secrets, err = secrets.New(db, w.log, w.watch, keys, secrets.Options{Matcher: scanner.Known()})
	w.must(err)
	t.Cleanup(func() { w.secrets.Close(ctx) })
	found := findings.New(db, w.log, nil)
	stops := locks.New(db, w.log, w.watch, locks.Options{})
	derive := func(label string) []byte { sum := sha256.Sum256([]byte(label)); return sum[:] }
	w.ids, err = identity.New(db, w.log, w.watch, identity.Options{Derive: derive, Locks: stops})
	w.must(err)
	w.conns, err = connections.New(db, w.log, w.watch, found, connections.Options{Redactor: scanner})
	w.must(err)
	w.policy, err = policy.New(db, w.log, w.watch, toolTypes{w.conns}, policy.Options{Findings: found})
	w.must(err)
	w.options = inventory.Options{DB: db, Identity: w.ids, Connections: w.conns, Policy: w.policy, Secrets: w.secrets, Findings: found,
		Users: func(context.Context, string) ([]string, error) { return nil, nil }, Log: w.log, Now: func() time.Time { return w.now },
		Priced: func(model string) bool { return model == "priced" }, Ignore: func(ev audit.Event) bool { return ev.Client == "ours" }}
	w.Service = inventory.New(w.options)
	_, err = w.ids.PutUser(ctx, audit.System, "test", identity.User{Name: "olga", Role: "owner"})
	w.must(err)
	for _, name := range []string{"payer", "idle"} {
		_, err = w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: name, Owner: "olga", Stage: "production", Purpose: "pays"})
		w.must(err)
	}
	for _, name := range []string{"model", "never"} {
		_, err = w.conns.Register(ctx, audit.System, "test", connections.Connection{Name: name, Kind: "llm", Dialect: "openai", URL: "https://" + name + ".example", Owner: "olga", Secret: "model-key"})
		w.must(err)
	}
	_, err = w.secrets.Put(ctx, audit.System, "test", secrets.Spec{Name: "model-key", Owner: "olga", Connection: "model"}, secrets.NewValue([]byte("sk-the-secret-of-the-model-0123456789")))
	w.must(err)
	w.must(w.watch.Poll(ctx))
	return w
}

// record appends an event of an agent.
func (w *world) record(kind audit.Type, ev audit.Event, detail string) string {
	w.t.Helper()
	ev.Type, ev.Actor = kind, audit.Actor{Kind: audit.KindAgent, Name: ev.Agent}
	if detail != "" {
		ev.Detail = jsontext.Value(detail)
	}
	ref, err := w.log.Append(ctx, ev)
	w.must(err)
	return ref.ID
}

// called is a call that was let out; it has no outcome here.
func (w *world) called(agent, connection, tool string) {
	w.t.Helper()
	_, err := w.log.Intent(ctx, audit.Event{Actor: audit.System, Agent: agent, Connection: connection, Tool: tool, Call: "call_1", Credential: "key_1", Remote: "10.0.0.7"})
	w.must(err)
}

// answered is a call of which one model was asked and another answered.
func (w *world) answered(ev audit.Event, tool string) {
	w.t.Helper()
	ev.Actor, ev.Connection, ev.Tool, ev.Call = audit.System, "model", tool, "call_2"
	r, err := w.log.Intent(ctx, ev)
	w.must(err)
	w.log.Outcome(r, audit.Event{Outcome: &audit.Outcome{Status: audit.Succeeded, Usage: &audit.Usage{Model: "odd"}}, Labels: []string{"secret"}, Detail: jsontext.Value(`{"model":"priced"}`)})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		recs, err := w.log.List(ctx, audit.Query{Call: ev.Call, Types: []audit.Type{audit.CallOutcome}})
		w.must(err)
		if len(recs) == 1 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal("the outcome is not recorded")
		}
	}
}

func (w *world) difference() inventory.Difference {
	w.t.Helper()
	d, err := w.Difference(ctx)
	w.must(err)
	if d.Behind != 0 {
		w.t.Errorf("%d records are not read", d.Behind)
	}
	return d
}

func entry(t *testing.T, d inventory.Difference, kind, name string) inventory.Entry {
	t.Helper()
	i := slices.IndexFunc(d.Entries, func(e inventory.Entry) bool { return e.Kind == kind && e.Name == name })
	if i < 0 {
		t.Fatalf("no %s %q in %+v", kind, name, d.Entries)
	}
	return d.Entries[i]
}

func TestTheDifference(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		tool := w.conns.Tools("model")[0].Name
		w.called("payer", "model", tool)
		w.called("ghost", "model", tool)
		w.record(audit.AuthRefused, audit.Event{Remote: "203.0.113.9", Client: "curl/8"}, `{"code":"credential_unknown","count":40}`)
		last := w.record(audit.AuthRefused, audit.Event{Remote: "203.0.113.9", Client: "curl/8"}, `{"code":"credential_unknown","count":2}`)
		w.record(audit.AuthRefused, audit.Event{Remote: "203.0.113.9", Object: "oauth2/token"}, `{"code":"invalid_client","claims_to_be":"bursar"}`)
		w.record(audit.AuthRefused, audit.Event{Remote: "203.0.113.9", Object: "login"}, `{"code":"login_refused"}`)
		w.record(audit.AuthRefused, audit.Event{Remote: "127.0.0.1", Client: "ours"}, `{"code":"credential_unknown"}`)
		who := audit.Event{Agent: "payer", Credential: "key_1", Remote: "198.51.100.4"}
		ask := func(connection, tool, code string) {
			ev := who
			ev.Connection, ev.Tool = connection, tool
			w.record(audit.CallRefused, ev, `{"front":"http","code":"`+code+`"}`)
		}
		ask("model", "no_such_tool", "unknown_tool")
		ask("desk", "", "unknown_connection")
		ask("", "CONNECT telemetry.example:443", "host_refused")
		ask("", "CONNECT model.example:443", "host_refused") // registered since
		w.answered(who, tool)
		w.record("leak.reported", audit.Event{Object: "secret/gone"}, `{"kind":"secret"}`)
		w.record("leak.reported", audit.Event{Object: "secret/model-key"}, `{"kind":"secret"}`)
		w.record("canary.used", audit.Event{Object: "canary/vault", Remote: "203.0.113.9"}, "")

		d := w.difference()
		for _, want := range []struct{ kind, name, state, verb string }{
			{"agent", "ghost", "unregistered", "register"},
			{"caller", "203.0.113.9 curl/8", "unregistered", "import"},
			{"caller", "203.0.113.9 as bursar", "unregistered", "register"},
			{"connection", "desk", "unregistered", "register"},
			{"tool", "model/no_such_tool", "unregistered", "accept"},
			{"model", "model/odd", "unregistered", "register"},
			{"secret", "secret/gone", "unregistered", "import"},
			{"secret", "canary/vault", "unregistered", "look"},
			{"secret", "content/payer/model", "unregistered", "import"},
			{"network", "198.51.100.0/24", "unregistered", "look"},
			{"host", "telemetry.example:443", "unregistered", "register"},
			{"agent", "idle", "unobserved", "decommission"},
			{"connection", "never", "unobserved", "delete"},
			{"secret", "secret/model-key", "unobserved", "delete"},
		} {
			e := entry(t, d, want.kind, want.name)
			if e.State != want.state || e.Why == "" || e.Since.IsZero() || !slices.ContainsFunc(e.Acts, func(a inventory.Act) bool { return a.Verb == want.verb }) ||
				!slices.ContainsFunc(e.Acts, func(a inventory.Act) bool {
					return a.Command == "countersign inventory set-aside "+e.ID+" --until 30d --reason TEXT"
				}) {
				t.Errorf("%+v", e)
			}
			if e.State == inventory.Unregistered && (e.Times == 0 || e.First.IsZero() || e.Last.Before(e.First) || e.Event == "" || e.Origin == "" || len(e.By) == 0) {
				t.Errorf("%s %s does not say when, how often, by whom or where: %+v", e.Kind, e.Name, e)
			}
		}
		if len(d.Entries) != 14 || d.Open != 14 || d.Known[inventory.KindAgent] != 1 || d.Known[inventory.KindNetwork] != 1 || d.Known[inventory.KindModel] != 1 {
			t.Errorf("%d entries, %d open, known %v", len(d.Entries), d.Open, d.Known)
		}
		if e := entry(t, d, "caller", "203.0.113.9 curl/8"); e.Times != 42 || e.Event != last || !e.Passed.IsZero() || !slices.Equal(e.By, []string{"203.0.113.0/24"}) {
			t.Errorf("%+v", e)
		}
		if again := w.difference(); len(again.Entries) != 14 || entry(t, again, "caller", "203.0.113.9 curl/8").Times != 42 {
			t.Errorf("read twice: %+v", again)
		}
		w.registeredSince(t)
	})
}

// registeredSince acts on entries, and looks that they are gone.
func (w *world) registeredSince(t *testing.T) {
	t.Helper()
	_, err := w.ids.PutAgent(ctx, audit.System, "test", identity.Agent{Name: "ghost", Owner: "olga", Stage: "production", Purpose: "haunts"})
	w.must(err)
	_, err = w.policy.PutGrant(ctx, audit.System, "test", policy.Grant{Name: "g", Agent: "payer", Connection: "model", Tools: []string{"*"}, When: `context.args has model && context.args.model == "odd"`, Expires: time.Now().Add(time.Hour)})
	w.must(err)
	w.must(w.watch.Poll(ctx))
	d := w.difference()
	if n := len(d.Entries); n != 12 || slices.ContainsFunc(d.Entries, func(e inventory.Entry) bool { return e.Name == "ghost" || e.Name == "model/odd" }) {
		t.Errorf("%d entries: %+v", n, d.Entries)
	}
	// What is deleted was registered when it was last seen; what comes again after
	// that was not.
	w.must(w.ids.DeleteAgent(ctx, audit.System, "test", "ghost"))
	w.must(w.watch.Poll(ctx))
	if d := w.difference(); len(d.Entries) != 12 {
		t.Errorf("a deleted agent is in the difference: %+v", d.Entries)
	}
	w.called("ghost", "model", w.conns.Tools("model")[0].Name)
	if e := entry(t, w.difference(), "agent", "ghost"); e.State != inventory.Unregistered {
		t.Errorf("%+v", e)
	}
	// What was only refused counts for a week, what was let through for a month.
	w.now = w.now.Add(8 * 24 * time.Hour)
	d = w.difference()
	for _, e := range d.Entries {
		if e.State == inventory.Unregistered && e.Passed.IsZero() {
			t.Errorf("after a week: %+v", e)
		}
	}
	if e := entry(t, d, "agent", "ghost"); e.State != inventory.Unregistered {
		t.Errorf("%+v", e)
	}
}

func TestWhatIsSetAside(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		w.called("ghost", "model", w.conns.Tools("model")[0].Name)
		e := entry(t, w.difference(), "agent", "ghost")
		olga := audit.Person("usr_1", "olga")
		for _, bad := range []struct {
			id, reason string
			until      time.Duration
			want       error
		}{
			{e.ID, "", time.Hour, inventory.ErrReason}, {e.ID, strings.Repeat("x", 1001), time.Hour, inventory.ErrReason}, {e.ID, "known", -time.Hour, inventory.ErrUntil},
			{e.ID, "known", 400 * 24 * time.Hour, inventory.ErrUntil}, {"obs_none", "known", time.Hour, inventory.ErrNoEntry},
		} {
			if _, err := w.SetAside(ctx, olga, bad.reason, bad.id, w.now.Add(bad.until)); !errors.Is(err, bad.want) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		before := w.difference().Open
		if _, err := w.SetAside(ctx, olga, "a test of the supplier", e.ID, w.now.Add(48*time.Hour)); err != nil {
			t.Fatal(err)
		}
		d := w.difference()
		e = entry(t, d, "agent", "ghost")
		if d.Open != before-1 || e.Aside == nil || e.Aside.By != "olga" || e.Aside.Reason != "a test of the supplier" {
			t.Errorf("%d open: %+v", d.Open, e.Aside)
		}
		rec, err := w.log.Get(ctx, e.Aside.Event)
		if err != nil || rec.Event.Type != inventory.SetAsideEvent || rec.Event.Reason != "a test of the supplier" || !strings.Contains(string(rec.Raw), "ghost") {
			t.Errorf("%s, %v", rec.Raw, err)
		}
		if _, err := w.TakeBack(ctx, olga, "it was none", e.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.TakeBack(ctx, olga, "again", e.ID); !errors.Is(err, inventory.ErrNotAside) {
			t.Errorf("taken back twice: %v", err)
		}
		_, err = w.SetAside(ctx, olga, "once more", e.ID, w.now.Add(48*time.Hour))
		w.must(err)
		w.now = w.now.Add(49 * time.Hour)
		if d := w.difference(); d.Open != before {
			t.Errorf("after its time it is still set aside: %d of %d open", d.Open, before)
		}
	})
}

// Who invents names fills what is theirs alone, and shows in what was left out.
func TestInventedNamesAreBounded(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		const flood = 300
		for i := range flood {
			w.record(audit.CallRefused, audit.Event{Agent: "payer", Credential: "key_1", Connection: "model", Tool: fmt.Sprintf("invented-%d-\u0000%s", i, strings.Repeat("ü", 200))}, `{"code":"unknown_tool"}`)
		}
		w.record(audit.CallRefused, audit.Event{Agent: "idle", Credential: "key_2", Connection: "model", Tool: "honest"}, `{"code":"unknown_tool"}`)
		tool := w.conns.Tools("model")[0].Name
		w.called("payer", "model", tool) // registered: it needs no room
		d := w.difference()
		invented := 0
		for _, e := range d.Entries {
			if strings.HasPrefix(e.Name, "model/invented-") {
				if invented++; len(e.Name) > 210 || slices.ContainsFunc(e.Acts, func(a inventory.Act) bool { return strings.Contains(a.Command, "invented") }) {
					t.Fatalf("%+v", e)
				}
			}
		}
		if more := entry(t, d, "tool", "more, by payer"); invented > 100 || invented < 95 || more.Times != int64(flood-invented) || more.State != inventory.Unregistered {
			t.Errorf("%d are kept, %d left out", invented, more.Times)
		}
		entry(t, d, "tool", "model/honest")
		all, _, _, err := w.Observed(ctx)
		w.must(err)
		if !slices.ContainsFunc(all, func(e inventory.Entry) bool { return e.Name == "model/"+tool && e.State == inventory.Registered }) {
			t.Error("a registered tool found no room")
		}
	})
}

// Several replicas read the log; each record counts once.
func TestReplicasCountOnce(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		w := build(t, dsn)
		others := []*inventory.Service{inventory.New(w.options), inventory.New(w.options), w.Service}
		for _, s := range others {
			w.must(s.Start(ctx))
			w.must(s.Start(ctx))
		}
		const calls = 100
		tool := w.conns.Tools("model")[0].Name
		for i := range calls {
			w.called("payer", "model", tool)
			if i%20 == 0 {
				_, _, _, err := others[i/20%3].Observed(ctx)
				w.must(err)
			}
		}
		all, since, _, err := others[0].Observed(ctx)
		w.must(err)
		i := slices.IndexFunc(all, func(e inventory.Entry) bool { return e.Name == "payer" })
		if i < 0 || all[i].Times != calls || since.IsZero() {
			t.Errorf("%+v since %v", all, since)
		}
		for _, s := range others {
			w.must(s.Stop(ctx))
			w.must(s.Stop(ctx))
		}
	})
}
