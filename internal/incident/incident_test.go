package incident_test

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/incident"
	"github.com/countersign/countersign/internal/incident/account"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/posture/bundle"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/undo"
)

var (
	ctx     = context.Background()
	ada     = audit.Person("usr_1", "ada")
	auditor = rest.Caller{ID: "usr_2", Name: "max", Role: rest.Auditor, Reason: "look"}
	viewer  = rest.Caller{ID: "usr_3", Name: "eve", Role: rest.Viewer}
	owner   = rest.Caller{ID: "usr_4", Name: "olga", Role: rest.Owner}
)

// world is the ledger with its index and its tree, findings, and a case: the agent
// payer pays twice, is refused once, and is locked; other does something, too.
type world struct {
	*incident.Service
	t        *testing.T
	db       *storage.DB
	log      *audit.Log
	seal     *seal.Service
	search   *search.Service
	findings *findings.Service
	signer   note.Signer
	keyProof []byte
	logKey   string
	finding  string
}

func each(t *testing.T, fn func(w *world)) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		w := &world{t: t, db: db}
		var err error
		w.log, err = audit.Open(ctx, db, audit.Options{Redactor: inspection.New(), Keeper: audittest.Keeper("k")})
		w.must(err)
		t.Cleanup(func() { w.log.Close(ctx) })
		sealer, err := seal.NewSealer(bytes.Repeat([]byte{7}, 32))
		w.must(err)
		w.seal, err = seal.New(ctx, db, w.log, seal.Options{Origin: "example.com/log", Sealer: sealer})
		w.must(err)
		w.search, err = search.New(db, w.log, search.Options{})
		w.must(err)
		w.must(w.search.Start(ctx))
		t.Cleanup(func() { w.search.Stop(ctx) })
		w.findings = findings.New(db, w.log, nil)
		var vkey string
		w.signer, vkey, err = bundle.Key(bytes.Repeat([]byte{9}, 32))
		w.must(err)
		named, err := w.log.Append(ctx, audit.Event{Type: bundle.KeyEvent, Actor: audit.System, Object: "evidence/key", Detail: jsontext.Value(`{"key":"` + vkey + `"}`)})
		w.must(err)
		w.happen()
		w.keyProof, err = w.prove(ctx, named.ID)
		w.must(err)
		keys, err := w.seal.Keys(ctx)
		w.must(err)
		w.logKey = keys.First
		w.Service, err = incident.New(incident.Options{DB: db, Log: w.log, Finding: w.findings.Get, Prove: w.prove, Version: "test",
			Search: func(ctx context.Context, q search.Query, p search.Page) (search.Result, error) {
				if err := w.search.Fresh(ctx); err != nil {
					return search.Result{}, err
				}
				return w.search.Find(ctx, q, p)
			},
			Reach: func(_ context.Context, agent string) (inventory.Tree, error) {
				if agent != "payer" {
					return inventory.Tree{}, inventory.ErrNoAgent
				}
				return inventory.Tree{Agent: agent, Reach: inventory.Reach{Tools: 3}}, nil
			},
			Plan: func(_ context.Context, run string) (undo.Plan, error) {
				if run != "run_1" {
					return undo.Plan{}, undo.ErrNothing
				}
				return undo.Plan{Object: "run/run_1", Digest: "d", Steps: []undo.Step{{N: 1, State: undo.Planned, Args: jsontext.Value(`{"id":7}`)}}}, nil
			},
			Bundle: func(_ context.Context, files []bundle.File, at time.Time) ([]byte, error) { return w.bundle(files, at) },
			Owns: func(_ context.Context, user, object string) (bool, error) {
				return user == "olga" && object == "agent/payer", nil
			},
		})
		w.must(err)
		fn(w)
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) bundle(files []bundle.File, at time.Time) ([]byte, error) {
	return bundle.Write(append(slices.Clone(files), bundle.File{Name: bundle.KeyProof, Body: w.keyProof}), at, w.signer)
}

func (w *world) prove(ctx context.Context, event string) ([]byte, error) {
	if _, err := w.seal.Step(ctx); err != nil {
		return nil, err
	}
	f, err := w.seal.Prove(ctx, event)
	if err != nil {
		return nil, err
	}
	return f.Encode()
}

// call makes a call and waits until its outcome is in the log.
func (w *world) call(ev audit.Event, status string) string {
	w.t.Helper()
	ev.Actor, ev.Agent, ev.Owner, ev.Effect = audit.Actor{Kind: audit.KindAgent, Name: "payer"}, "payer", "olga", "irreversible"
	ev.Connection, ev.Tool = "ledger", "pay"
	r, err := w.log.Intent(ctx, ev, audit.Payload{Name: "arguments", Body: []byte(`{"number":"` + ev.Objects[0] + `"}`)})
	w.must(err)
	w.log.Outcome(r, audit.Event{Actor: audit.System, Outcome: &audit.Outcome{Status: status}})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		recs, err := w.log.List(ctx, audit.Query{Call: ev.Call})
		w.must(err)
		if len(recs) == 2 {
			return recs[1].Event.ID
		}
		if time.Now().After(end) {
			w.t.Fatal("the outcome of a call is not in the log")
		}
	}
}

func (w *world) happen() {
	w.t.Helper()
	key := audit.Event{Credential: "key_1", Client: "curl/8", Run: "run_1"}
	first, second := key, key
	first.Call, first.Objects, first.Remote = "call_1", []string{"invoice/7"}, "192.0.2.1"
	second.Call, second.Objects, second.Remote = "call_2", []string{"invoice/7", "supplier/3"}, "192.0.2.2"
	seen := w.call(first, audit.Succeeded)
	w.call(second, audit.Unknown)
	denied := key
	denied.Type, denied.Call, denied.Agent, denied.Connection, denied.Tool, denied.Effect = audit.CallDenied, "call_3", "payer", "ledger", "pay", "irreversible"
	denied.Actor, denied.Decision = audit.System, &audit.Decision{Effect: "deny", Policies: []string{"limit"}, Reason: "over the limit"}
	for _, ev := range []audit.Event{
		denied,
		{Type: "approval.granted", Actor: ada, Object: "approval/apr_1", Agent: "payer", Call: "call_2", Run: "run_1", Connection: "ledger", Tool: "pay", Reason: "looks right"},
		{Type: "lock.placed", Actor: ada, Object: "agent/payer", Reason: "stop it"},
		{Type: "undo.begun", Actor: ada, Object: "call/call_1", Reason: "paid twice"},
		{Type: audit.CallDenied, Actor: audit.System, Agent: "other", Run: "run_2", Call: "call_9"},
	} {
		_, err := w.log.Append(ctx, ev)
		w.must(err)
	}
	w.must(w.findings.Open(ctx, findings.Finding{Rule: "detect.twice", Severity: findings.Critical, Object: "tool/ledger/pay", Agent: "payer", Title: "paid twice", Events: []string{seen}}))
	found, err := w.findings.List(ctx, findings.Query{})
	w.must(err)
	w.finding = found[0].ID
}

func (w *world) opened() incident.Incident {
	w.t.Helper()
	i, err := w.Open(ctx, ada, "look into it", incident.Start{Finding: w.finding})
	w.must(err)
	return i
}

func TestAnIncidentGathersWhatBelongsToIt(t *testing.T) {
	each(t, func(w *world) {
		i := w.opened()
		if i.Title != "paid twice" || i.Severity != findings.Critical || strings.Join(i.Scope.Agents, " ") != "payer" || strings.Join(i.Scope.Runs, " ") != "run_1" {
			w.t.Errorf("%+v", i)
		}
		_, err := w.Note(ctx, ada, i.ID, "the bank has "+"sk_live"+"_4eC39HqLyjWDarjtT1zdp7dc")
		w.must(err)
		v, err := w.View(ctx, viewer, i.ID, false)
		w.must(err)
		a := v.Account
		if len(a.Agents) != 1 || a.Agents[0].Tally != (account.Tally{Calls: 2, Effects: 2, Denied: 1, Unknown: 1}) || a.Agents[0].Owner != "olga" {
			w.t.Errorf("agents: %+v", a.Agents)
		}
		if len(a.Credentials) != 1 || strings.Join(a.Credentials[0].Remotes, " ") != "192.0.2.1 192.0.2.2" || len(a.Runs) != 1 || a.Runs[0].Calls != 2 {
			w.t.Errorf("credentials: %+v, runs: %+v", a.Credentials, a.Runs)
		}
		if len(a.Touched) != 2 || a.Touched[0].Object != "invoice/7" || a.Touched[0].Effects != 2 {
			w.t.Errorf("touched: %+v", a.Touched)
		}
		if len(a.Effects) != 2 || a.Effects[0].Status != "succeeded" || a.Effects[1].Status != "unknown" {
			w.t.Errorf("effects: %+v", a.Effects)
		}
		if len(a.Approvals) != 1 || a.Approvals[0].Steps[0].By != "ada" || len(a.Decisions) == 0 {
			w.t.Errorf("approvals: %+v, decisions: %+v", a.Approvals, a.Decisions)
		}
		var types []string
		for _, e := range a.Timeline {
			types = append(types, e.Type)
		}
		got := strings.Join(types, " ")
		for _, want := range []string{"call.intent", "call.denied", "lock.placed", "undo.begun", "finding.opened", "incident.opened", "incident.noted"} {
			if !strings.Contains(got, want) {
				w.t.Errorf("no %s in %s", want, got)
			}
		}
		if strings.Contains(got, "evidence.key_made") || len(a.Agents) != 1 {
			w.t.Errorf("what does not belong to it: %s", got)
		}
		if len(v.Notes) != 1 || strings.Contains(v.Notes[0].Text, "4eC39") {
			w.t.Errorf("notes: %+v", v.Notes)
		}
		if len(v.Undo) != 1 || v.Undo[0].Plan.Steps[0].Args != nil || len(v.ReachThen) != 1 || v.ReachNow[0].Reach.Tools != 3 {
			w.t.Errorf("undo: %+v, reach: %+v %+v", v.Undo, v.ReachThen, v.ReachNow)
		}
	})
}

func TestItIsInStepUntilItIsClosed(t *testing.T) {
	each(t, func(w *world) {
		i := w.opened()
		calls := func() int {
			v, err := w.View(ctx, viewer, i.ID, false)
			w.must(err)
			return v.Account.Agents[0].Calls
		}
		w.call(audit.Event{Call: "call_4", Run: "run_3", Objects: []string{"invoice/8"}}, audit.Succeeded)
		if n := calls(); n != 3 {
			w.t.Errorf("%d calls while it is open", n)
		}
		_, err := w.Close(ctx, ada, i.ID, "reversed")
		w.must(err)
		w.call(audit.Event{Call: "call_5", Run: "run_3", Objects: []string{"invoice/8"}}, audit.Succeeded)
		if n := calls(); n != 3 {
			w.t.Errorf("%d calls after it was closed", n)
		}
		if _, err := w.Close(ctx, ada, i.ID, "again"); !errors.Is(err, incident.ErrClosed) {
			w.t.Error(err)
		}
		if _, err := w.Note(ctx, ada, i.ID, "late"); !errors.Is(err, incident.ErrClosed) {
			w.t.Error(err)
		}
	})
}

// TestItsDoors tries what is refused, who sees contents (each time is recorded), and
// the API.
func TestItsDoors(t *testing.T) {
	each(t, func(w *world) {
		w.refusals()
		w.contents()
		w.api()
	})
}

func (w *world) refusals() {
	w.t.Helper()
	now := time.Now()
	for what, c := range map[string]struct {
		start  incident.Start
		reason string
		want   error
	}{
		"nothing":       {incident.Start{}, "why", incident.ErrWhat},
		"two things":    {incident.Start{Agent: "payer", Run: "run_1"}, "why", incident.ErrWhat},
		"no reason":     {incident.Start{Agent: "payer"}, " ", incident.ErrReason},
		"no finding":    {incident.Start{Finding: "fnd_x"}, "why", findings.ErrNotFound},
		"no agent":      {incident.Start{Agent: "nobody"}, "why", incident.ErrNothing},
		"no run":        {incident.Start{Run: "run_x"}, "why", incident.ErrNothing},
		"bad severity":  {incident.Start{Agent: "payer", Severity: "bad"}, "why", incident.ErrWhat},
		"of the future": {incident.Start{Agent: "payer", Since: now.Add(time.Hour)}, "why", incident.ErrTime},
		"backwards":     {incident.Start{Agent: "payer", Since: now, Until: now.Add(-time.Hour)}, "why", incident.ErrTime},
	} {
		if _, err := w.Open(ctx, ada, c.reason, c.start); !errors.Is(err, c.want) {
			w.t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := w.View(ctx, viewer, "inc_x", false); !errors.Is(err, incident.ErrNotFound) {
		w.t.Error(err)
	}
	if _, err := w.Open(ctx, ada, "an agent that is gone", incident.Start{Agent: "other"}); err != nil {
		w.t.Error(err)
	}
	i := w.opened()
	for _, text := range []string{"", strings.Repeat("x", 4001), "\xff", "a\x00"} {
		if _, err := w.Note(ctx, ada, i.ID, text); !errors.Is(err, incident.ErrNote) {
			w.t.Errorf("%q: %v", text, err)
		}
	}
}

func (w *world) contents() {
	w.t.Helper()
	i := w.opened()
	reads := func() int {
		recs, err := w.log.List(ctx, audit.Query{Types: []audit.Type{"contents.read"}})
		w.must(err)
		return len(recs)
	}
	for who, c := range map[string]struct {
		caller   rest.Caller
		contents int
		args     bool
	}{"viewer": {viewer, 0, false}, "owner": {owner, 2, false}, "auditor": {auditor, 2, true}} {
		was := reads()
		v, err := w.View(ctx, c.caller, i.ID, true)
		w.must(err)
		if n := len(v.Contents); n != c.contents || (v.Undo[0].Plan.Steps[0].Args != nil) != c.args {
			w.t.Errorf("%s sees %d contents, %+v", who, n, v.Undo[0].Plan)
		}
		if got := reads() - was; got != min(1, c.contents) {
			w.t.Errorf("%s: %d recorded", who, got)
		}
	}
	was := reads()
	if v, err := w.View(ctx, auditor, i.ID, false); err != nil || v.Contents != nil || reads() != was {
		w.t.Errorf("without contents: %+v %v", v.Contents, err)
	}
}

func TestAnExportIsVerifiedByTheKeyAlone(t *testing.T) {
	each(t, func(w *world) {
		i := w.opened()
		file, err := w.Export(ctx, auditor, i.ID, true)
		w.must(err)
		s, err := account.Verify(file, w.logKey)
		if err != nil || !s.Trusted || s.Contents != 2 || s.Events < 9 || s.ID != i.ID {
			w.t.Fatalf("%+v %v", s, err)
		}
		bare, err := w.Export(ctx, auditor, i.ID, false)
		w.must(err)
		if s, err := account.Verify(bare, w.logKey); err != nil || s.Contents != 0 || bytes.Contains(bare, []byte(`\"number\"`)) {
			w.t.Errorf("%+v %v", s, err)
		}
		for at := 3; at < len(file); at += 1009 {
			changed := bytes.Clone(file)
			changed[at] ^= 1
			if _, err := account.Verify(changed, w.logKey); err == nil {
				w.t.Fatalf("byte %d was flipped and nothing found", at)
			}
		}
		w.forge(file)
	})
}

// forge signs what is not so: whoever has the key of evidence alone can say nothing
// that the log does not say.
func (w *world) forge(file []byte) {
	w.t.Helper()
	o, err := bundle.Open(file, w.logKey)
	w.must(err)
	forged := func(change map[string]func(b []byte) []byte) []byte {
		var files []bundle.File
		for _, name := range o.Files {
			body, _ := o.File(name)
			if fn := change[name]; fn != nil {
				body = fn(bytes.Clone(body))
			}
			if name != bundle.KeyProof && name != "signature.note" {
				files = append(files, bundle.File{Name: name, Body: body})
			}
		}
		b, err := w.bundle(files, time.Now())
		w.must(err)
		return b
	}
	replace := func(old, now string) func([]byte) []byte {
		return func(b []byte) []byte {
			if !bytes.Contains(b, []byte(old)) {
				w.t.Fatalf("there is no %s to forge", old)
			}
			return bytes.Replace(b, []byte(old), []byte(now), 1)
		}
	}
	first := func(b []byte) []byte { _, rest, _ := bytes.Cut(b, []byte("\n")); return rest }
	for what, change := range map[string]map[string]func([]byte) []byte{
		"nothing":    {},
		"the status": {account.Document: replace(`"status": "unknown"`, `"status": "failed"`)},
		"a count":    {account.Document: replace(`"denied": 1`, `"denied": 0`)},
		"a proof":    {account.Proofs: first},
		"a record":   {account.Proofs: replace(`192.0.2.1`, `192.0.2.9`)},
		"contents":   {account.Contents: func(b []byte) []byte { return replace(`"salt":"`, `"salt":"AAAA`)(b) }},
		"the form":   {account.Document: replace(account.Format, "another")},
	} {
		_, err := account.Verify(forged(change), w.logKey)
		if (err == nil) != (len(change) == 0) {
			w.t.Errorf("forged %s: %v", what, err)
		}
	}
	if _, err := account.Verify(file, "example.com/other+00000000+AAAA"); err == nil {
		w.t.Error("verified by the key of another log")
	}
}

func (w *world) api() {
	w.t.Helper()
	i := w.opened()
	mux := http.NewServeMux()
	role := ""
	w.Routes(rest.New(mux, "test", func(context.Context, string) (rest.Caller, error) {
		return rest.Caller{ID: "usr_1", Name: "ada", Role: role}, nil
	}, slog.New(slog.DiscardHandler)))
	for _, c := range []struct {
		role                    string
		status                  int
		method, path, body, say string
	}{
		{rest.Viewer, 200, "GET", "", "", i.ID},
		{rest.Viewer, 200, "GET", "?state=closed", "", "[]"},
		{rest.Viewer, 422, "GET", "?state=odd", "", ""},
		{rest.Viewer, 200, "GET", "/" + i.ID, "", `"timeline"`},
		{rest.Viewer, 403, "GET", "/" + i.ID + "/export", "", "role_required"},
		{rest.Viewer, 403, "POST", "", `{"agent":"payer","reason":"x"}`, "role_required"},
		{rest.Auditor, 403, "POST", "/" + i.ID + "/close", `{"reason":"x"}`, "role_required"},
		{rest.Operator, 201, "POST", "", `{"agent":"payer","reason":"x"}`, `"state":"open"`},
		{rest.Operator, 400, "POST", "", `{"agent":"payer"}`, "reason_required"},
		{rest.Operator, 201, "POST", "/" + i.ID + "/notes", `{"text":"seen"}`, `"text":"seen"`},
		{rest.Operator, 200, "POST", "/" + i.ID + "/close", `{"reason":"done"}`, `"conclusion":"done"`},
		{rest.Operator, 404, "GET", "/inc_x/export", "", "incident_not_found"},
	} {
		role = c.role
		req := httptest.NewRequest(c.method, "/api/v1/incidents"+c.path, strings.NewReader(c.body))
		req.Header.Set("Authorization", "Bearer x")
		req.Header.Set("Content-Type", "application/json")
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, req)
		if body := answer.Body.String(); answer.Code != c.status || !strings.Contains(body, c.say) {
			w.t.Errorf("%s %s: %d %.300s", c.method, c.path, answer.Code, body)
		}
	}
}

func TestTheSameRecordsGiveTheSameAccount(t *testing.T) {
	a := []byte(`{"id":"evt_1","type":"call.intent","agent":"a","call":"c","effect":"write","time":"2026-01-01T00:00:00Z","actor":{"kind":"agent"}}`)
	b := []byte(`{"id":"evt_2","type":"call.outcome","agent":"a","call":"c","effect":"write","time":"2026-01-01T00:00:01Z","actor":{"kind":"system"},"outcome":{"status":"unknown"}}`)
	c := []byte(`{"id":"evt_3","type":"call.settled","agent":"a","call":"c","effect":"write","time":"2026-01-01T00:00:02Z","actor":{"kind":"system"},"outcome":{"status":"succeeded"}}`)
	one, err1 := account.Of([][]byte{a, b, c})
	two, err2 := account.Of([][]byte{c, a, b, a})
	x, err3 := json.Marshal(one, json.Deterministic(true))
	y, err4 := json.Marshal(two, json.Deterministic(true))
	if err := errors.Join(err1, err2, err3, err4); err != nil || !bytes.Equal(x, y) {
		t.Errorf("%v\n%s\n%s", err, x, y)
	}
	if one.Agents[0].Unknown != 0 || one.Effects[0].Status != "succeeded" {
		t.Errorf("what became known later counts: %s", x)
	}
	if _, err := account.Of([][]byte{[]byte(`{}`)}); err == nil {
		t.Error("a record without an identifier")
	}
}
