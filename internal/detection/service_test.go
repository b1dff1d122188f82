package detection_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/detection"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

var (
	ctx    = context.Background()
	person = audit.Person("usr_1", "ada")
)

func logOptions() audit.Options {
	return audit.Options{Redactor: clean{}, Keeper: audittest.Keeper("k")}
}

type clean struct{}

func (clean) Redact(b []byte) []byte { return b }

// world is one replica.
type world struct {
	*detection.Service
	t        testing.TB
	db       *storage.DB
	log      *audit.Log
	watch    *storage.Watcher
	locks    *locks.Service
	findings *findings.Service
	rotated  []string
}

func each(t *testing.T, fn func(w *world)) {
	t.Helper()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		log, err := audit.Open(ctx, db, logOptions())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close(ctx) })
		fn(replica(t, db, log))
	})
}

// lite is each where the engine makes no difference.
func lite(t *testing.T, fn func(w *world)) {
	t.Helper()
	fn(open(t))
}

// replica opens the room on a database, as a process does that has just started.
func replica(t testing.TB, db *storage.DB, log *audit.Log) *world {
	w := &world{t: t, db: db, log: log, watch: storage.NewWatcher(db, nil), findings: findings.New(db, log, nil)}
	w.locks = locks.New(db, log, w.watch, locks.Options{})
	var err error
	w.Service, err = detection.New(db, log, w.watch, detection.Options{Findings: w.findings, Locks: w.locks, Rotate: func(_ context.Context, tx *audit.Tx, _ audit.Actor, reason, connection string) error {
		tx.Record(audit.Event{Type: "secret.rotation_begun", Actor: audit.System, Reason: reason})
		w.rotated = append(w.rotated, connection)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.poll()
	return w
}

func (w *world) poll() {
	w.t.Helper()
	if err := w.watch.Poll(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// settle evaluates all that is in the log.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		n, err := w.Step(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
	w.t.Fatal("detection never comes to an end: does it watch what it writes?")
}

func (w *world) enforce(rule string) {
	w.t.Helper()
	if _, err := w.SetMode(ctx, person, "a test needs it", rule, detection.Enforce); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) record(ev audit.Event) {
	w.t.Helper()
	if _, err := w.log.Append(ctx, ev); err != nil {
		w.t.Fatal(err)
	}
}

// asks records that a credential asked for a model and was refused.
func (w *world) asks(agent, credential, model string, at time.Time) {
	w.record(audit.Event{Type: audit.CallDenied, Actor: audit.Actor{Kind: audit.KindAgent}, Agent: agent, Credential: credential, Connection: "openai", Tool: "chat.completions", Time: at, Detail: []byte(`{"model":"` + model + `"}`)})
}

// hop asks for so many models at once, which no agent does.
func (w *world) hop(agent, credential string, models int, at time.Time) {
	for i := range models {
		w.asks(agent, credential, fmt.Sprintf("m%d", i), at.Add(time.Duration(i)*time.Millisecond))
	}
}

func (w *world) list(all bool) []detection.Detection {
	w.t.Helper()
	found, err := w.List(ctx, all, "", 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

// of returns the detections of a rule.
func (w *world) of(rule string, all bool) []detection.Detection {
	w.t.Helper()
	return slices.DeleteFunc(w.list(all), func(d detection.Detection) bool { return d.Rule != rule })
}

func (w *world) count(t audit.Type) (n int) {
	w.t.Helper()
	if err := w.db.QueryRow(ctx, `SELECT count(*) FROM events WHERE type = $1`, string(t)).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

const hopping = "model.fan-out"

func TestAStolenKeyIsCutAndAPersonLiftsIt(t *testing.T) {
	each(t, func(w *world) {
		w.enforce(hopping)
		key := id.New("key")
		w.settle() // from now on it acts
		w.hop("bot", key, 13, time.Now())
		w.settle()
		got := w.of(hopping, false)
		if len(got) != 1 || got[0].State != detection.Active || got[0].Lock == "" || got[0].Object != "credential/"+key || !strings.Contains(got[0].Seen, "11 different models") {
			w.t.Fatalf("%+v", got)
		}
		if err := w.locks.Check(locks.Subject{Credential: key}); err == nil {
			w.t.Error("the credential still calls")
		}
		found, err := w.findings.List(ctx, findings.Query{Rule: "detection." + hopping})
		if err != nil || len(found) != 1 || len(found[0].Events) == 0 || !strings.Contains(found[0].Detail, "detection lift") {
			w.t.Errorf("%v %+v", err, found)
		}
		if n := w.count("detection.acted"); n != 1 {
			w.t.Errorf("%d acts in the log", n)
		}
		if _, err := w.Lift(ctx, person, " ", got[0].ID); err == nil {
			w.t.Error("lifted without a reason")
		}
		d, err := w.Lift(ctx, person, "it was our load test", got[0].ID)
		if err != nil || d.State != detection.Lifted || d.EndedBy != "ada" {
			w.t.Fatalf("%v %+v", err, d)
		}
		if err := w.locks.Check(locks.Subject{Credential: key}); err != nil {
			w.t.Errorf("lifted, but %v", err)
		}
		w.asks("bot", key, "m1", time.Now()) // what was counted is forgiven
		w.settle()
		if n := len(w.of(hopping, false)); n != 0 {
			w.t.Errorf("%d in force right after it was lifted", n)
		}
	})
}

// How fast a key was cut stands in the detection and its finding, with what passed
// until then; a finding that somebody closed meanwhile stays closed.
func TestHowFastItWasCutIsTold(t *testing.T) {
	each(t, func(w *world) {
		w.enforce(hopping)
		if err := w.locks.Start(ctx); err != nil {
			w.t.Fatal(err)
		}
		defer w.locks.Stop(ctx)
		w.settle()
		stolen := func(key string) {
			w.hop("bot", key, 11, time.Now().Add(-time.Second))
			for range 3 {
				w.goes("bot", key)
			}
			w.goes("bot", id.New("key")) // another's
		}
		told := func(key string) (d detection.Detection, f findings.Finding) {
			w.t.Helper()
			for end := time.Now().Add(30 * time.Second); d.Passed == nil; time.Sleep(time.Millisecond) {
				w.settle()
				w.poll()
				for _, got := range w.of(hopping, false) {
					if got.Credential == key {
						d = got
					}
				}
				if time.Now().After(end) {
					w.t.Fatalf("it is not told: %+v", d)
				}
			}
			found, err := w.findings.List(ctx, findings.Query{Object: "credential/" + key})
			if err != nil || len(found) != 1 {
				w.t.Fatalf("%v %+v", err, found)
			}
			return d, found[0]
		}
		key := id.New("key")
		stolen(key)
		d, f := told(key)
		if d.Contained <= 0 || *d.Passed != 3 || !strings.Contains(f.Detail, "passed until then: 3;") {
			w.t.Errorf("%+v %+v", d, f)
		}
		if n := w.count("detection.contained"); n != 1 {
			w.t.Errorf("%d of it in the log", n)
		}
		if err := w.locks.Stop(ctx); err != nil { // nobody has cut until it is closed
			w.t.Fatal(err)
		}
		key = id.New("key")
		stolen(key)
		if _, err := w.Step(ctx); err != nil { // it acts
			w.t.Fatal(err)
		}
		found, err := w.findings.List(ctx, findings.Query{Object: "credential/" + key})
		if err != nil || len(found) != 1 {
			w.t.Fatalf("%v %+v", err, found)
		}
		if err := w.findings.Close(ctx, person, found[0].ID, "seen"); err != nil {
			w.t.Fatal(err)
		}
		if err := w.locks.Start(ctx); err != nil {
			w.t.Fatal(err)
		}
		if _, f := told(key); f.Status != findings.Closed {
			w.t.Errorf("opened again: %+v", f)
		}
	})
}

// Nobody waits for a replica that died before it could say that it has cut.
func TestWhoDiedIsNotWaitedFor(t *testing.T) {
	each(t, func(w *world) {
		w.enforce(hopping)
		if err := w.locks.Start(ctx); err != nil {
			w.t.Fatal(err)
		}
		defer w.locks.Stop(ctx)
		w.settle()
		dead := func(ago time.Duration) {
			if err := w.db.Tx(ctx, func(tx *storage.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO replicas (name, started, seen) VALUES ('dead', 1, $1) ON CONFLICT (name) DO UPDATE SET seen = $1`, storage.Micros(time.Now().Add(-ago)))
				return err
			}); err != nil {
				w.t.Fatal(err)
			}
		}
		dead(-time.Hour) // it is there, as far as anybody knows
		w.hop("bot", id.New("key"), 13, time.Now().Add(-time.Second))
		acked := func() (d detection.Detection) {
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
				w.settle()
				w.poll()
				d = w.of(hopping, false)[0]
				if st, err := w.locks.State(ctx, d.Lock); err != nil || time.Now().After(end) {
					w.t.Fatalf("%v %+v", err, st)
				} else if len(st.Acks) == 1 {
					return d
				}
			}
		}
		d := acked()
		for began := time.Now(); time.Since(began) < 1100*time.Millisecond; time.Sleep(10 * time.Millisecond) { // it looks once a second
			if _, err := w.Step(ctx); err != nil {
				w.t.Fatal(err)
			}
		}
		if d = w.of(hopping, false)[0]; d.Contained != 0 {
			w.t.Errorf("contained, although a replica has not cut: %+v", d)
		}
		dead(4 * time.Second) // it died, right when the lock was placed
		if err := w.db.Tx(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(ctx, `UPDATE locks SET placed = placed - 20000000 WHERE id = $1`, d.Lock)
			return err
		}); err != nil {
			w.t.Fatal(err)
		}
		for end := time.Now().Add(30 * time.Second); d.Contained == 0; time.Sleep(time.Millisecond) {
			w.settle()
			if d = w.of(hopping, false)[0]; time.Now().After(end) {
				w.t.Fatalf("still waited for: %+v", d)
			}
		}
	})
}

// Two rules that fire at once about a key place one lock, and who lifts it ends both.
func TestOneLockForTwoRulesThatFireAtOnce(t *testing.T) {
	each(t, func(w *world) {
		if err := w.put(fmt.Sprintf(holding, "lock-credential")); err != nil {
			w.t.Fatal(err)
		}
		w.enforce("test.hold")
		w.enforce(hopping)
		w.settle()
		key := id.New("key")
		w.hop("bot", key, 13, time.Now())
		w.settle()
		if n := len(w.locks.Active()); n != 1 || len(w.of(hopping, false)) != 1 || len(w.of("test.hold", false)) != 1 {
			w.t.Fatalf("%d locks: %+v", n, w.list(false))
		}
		if _, err := w.Lift(ctx, person, "our load test", w.of(hopping, false)[0].ID); err != nil {
			w.t.Fatal(err)
		}
		if err := w.locks.Check(locks.Subject{Credential: key}); err != nil {
			w.t.Errorf("lifted, but %v", err)
		}
	})
}

// goes records that a call of a credential went out.
func (w *world) goes(agent, credential string) {
	w.t.Helper()
	if _, err := w.log.Intent(ctx, audit.Event{Type: audit.CallIntent, Actor: audit.Actor{Kind: audit.KindAgent}, Agent: agent, Credential: credential, Connection: "openai", Tool: "chat.completions", Call: id.New(id.Call)}); err != nil {
		w.t.Fatal(err)
	}
}

func TestARuleThatObservesDoesNothing(t *testing.T) {
	lite(t, func(w *world) {
		w.settle()
		key := id.New("key")
		w.hop("bot", key, 13, time.Now())
		w.settle()
		got := w.of(hopping, false)
		if len(got) != 1 || got[0].State != detection.Observed || got[0].Lock != "" {
			w.t.Fatalf("%+v", got)
		}
		if err := w.locks.Check(locks.Subject{Credential: key}); err != nil {
			w.t.Errorf("it only observes: %v", err)
		}
	})
}

func TestAKillNeitherLosesNorDoubles(t *testing.T) {
	each(t, func(w *world) {
		w.enforce(hopping)
		w.settle()
		key := id.New("key")
		w.hop("bot", key, 10, time.Now())
		if _, err := w.Step(ctx); err != nil { // counted in memory, and killed before it is saved
			w.t.Fatal(err)
		}
		for i := 10; i < 13; i++ {
			w.asks("bot", key, fmt.Sprintf("m%d", i), time.Now())
		}
		w.release()
		next := replica(w.t, w.db, w.log)
		gone, cancel := context.WithCancel(ctx)
		cancel() // the next one is killed while it commits
		if _, err := next.Step(gone); err == nil {
			w.t.Fatal("it worked without a database")
		}
		next.settle()
		next.release()
		last := replica(w.t, w.db, w.log)
		last.settle()
		if got := last.of(hopping, true); len(got) != 1 || got[0].Times != 1 || !strings.Contains(got[0].Seen, "11 different") {
			w.t.Errorf("%+v", got)
		}
		if n := last.count("detection.acted"); n != 1 {
			w.t.Errorf("%d acts", n)
		}
		last.keep() // how far it came: whoever comes next counts nothing again
		last.release()
		after := replica(w.t, w.db, w.log)
		if n, err := after.Step(ctx); n != 0 || err != nil {
			w.t.Errorf("%d records were counted twice: %v", n, err)
		}
	})
}

// keep waits until all that was evaluated is stored, with how far that is.
func (w *world) keep() {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; w.flush() {
		w.settle()
		st, err := w.Status(ctx, "")
		if err != nil {
			w.t.Fatal(err)
		}
		if st.Behind == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("all was evaluated, and %d records are still behind", st.Behind)
		}
	}
}

// release ends the lease of a replica that is gone.
func (w *world) release() {
	w.t.Helper()
	if err := w.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE leases SET until = 1 WHERE name = 'detection'`)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

func TestOnlyOneReplicaEvaluates(t *testing.T) {
	each(t, func(w *world) {
		if w.db.Dialect() == storage.SQLite {
			w.t.Skip("one process")
		}
		w.enforce(hopping)
		w.settle()
		others := []*world{replica(w.t, w.db, w.log), replica(w.t, w.db, w.log)}
		w.hop("bot", id.New("key"), 13, time.Now())
		for _, o := range others {
			if n, err := o.Step(ctx); n != 0 || err != nil {
				w.t.Errorf("a second one evaluated %d records: %v", n, err)
			}
		}
		w.settle()
		for _, o := range others {
			o.poll()
			if len(o.of(hopping, false)) != 1 {
				w.t.Error("the others do not see it")
			}
		}
	})
}

func TestAFloodOfFindingsIsTold(t *testing.T) {
	lite(t, func(w *world) {
		w.enforce(hopping)
		w.settle()
		at := time.Now()
		for i := range 60 {
			w.record(audit.Event{Type: "tool.drifted", Actor: audit.System, Object: fmt.Sprintf("tool/c/t%d", i), Time: at})
		}
		w.settle()
		if n := len(w.of("tool.drift", false)); n != 30 {
			w.t.Errorf("%d told one by one", n)
		}
		found, err := w.findings.List(ctx, findings.Query{Rule: "detection.crowded"})
		if err != nil || len(found) != 1 || found[0].Object != "detection-rule/tool.drift" {
			w.t.Errorf("%v %+v", err, found)
		}
		key := id.New("key") // what the flood was to hide
		w.hop("bot", key, 13, time.Now())
		for i := range 60 {
			w.record(audit.Event{Type: "tool.drifted", Actor: audit.System, Object: fmt.Sprintf("tool/d/t%d", i), Time: time.Now()})
		}
		w.settle()
		if found, err = w.findings.List(ctx, findings.Query{Status: findings.Open}); err != nil || len(found) != 32 || !slices.ContainsFunc(found, func(f findings.Finding) bool { return f.Object == "credential/"+key }) {
			w.t.Errorf("%v: %d findings, and the one that matters should be among 32", err, len(found))
		}
		if n := len(w.list(true)); n > 40 {
			w.t.Errorf("%d rows", n)
		}
	})
}

// TestAFloodHidesNobodyFromWhatActs has more agents do the same than are told one
// by one: a rule that acts acts on each.
func TestAFloodHidesNobodyFromWhatActs(t *testing.T) {
	lite(t, func(w *world) {
		if err := w.put(fmt.Sprintf(holding, "hold\n  approvers: security\n  for: 1h")); err != nil {
			w.t.Fatal(err)
		}
		w.enforce("test.hold")
		w.settle()
		for i := range 40 {
			w.hop(fmt.Sprintf("bot-%d", i), fmt.Sprintf("key_%d", i), 3, time.Now())
		}
		w.settle()
		for i := range 40 {
			if p := w.posture(fmt.Sprintf("bot-%d", i)); p.Held == "" {
				w.t.Errorf("bot-%d is lost in the flood", i)
			}
		}
	})
}

func TestRebuiltIsTheSameAndActsOnNothingOld(t *testing.T) {
	each(t, func(w *world) {
		w.enforce(hopping)
		w.settle()
		start := time.Now().Add(-30 * 24 * time.Hour)
		for i := range 40 {
			w.asks("bot", "key_1", "m0", start.Add(time.Duration(i)*6*time.Hour))
		}
		w.hop("bot", id.New("key"), 13, time.Now())
		w.settle()
		if err := w.Service.Stop(ctx); err != nil {
			w.t.Fatal(err)
		}
		time0 := w.normal("bot")
		for _, d := range w.of(hopping, false) { // while it is open, nothing acts a second time anyway
			if _, err := w.Lift(ctx, person, "it was our load test", d.ID); err != nil {
				w.t.Fatal(err)
			}
		}
		if err := w.Rebuild(ctx, person, "a test"); err != nil {
			w.t.Fatal(err)
		}
		again := replica(w.t, w.db, w.log)
		again.release()
		again.settle()
		again.flush()
		if got := again.normal("bot"); got != time0 || got == "" {
			w.t.Errorf("rebuilt:\n%s\nbefore:\n%s", got, time0)
		}
		if n, open := again.count("detection.acted"), again.of(hopping, false); n != 1 || len(open) != 0 {
			w.t.Errorf("%d acts, in force: %+v", n, open)
		}
	})
}

// flush has what was counted saved, as when the server stops.
func (w *world) flush() {
	w.t.Helper()
	if err := w.Service.Start(ctx); err != nil {
		w.t.Fatal(err)
	}
	if err := w.Service.Stop(ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) normal(agent string) string {
	w.t.Helper()
	w.flush()
	st, err := w.Status(ctx, agent)
	if err != nil {
		w.t.Fatal(err)
	}
	var b strings.Builder
	for _, n := range st.Baselines {
		fmt.Fprintln(&b, n.ID, n.Normal, n.Known, n.Learning.IsZero())
	}
	return b.String()
}

const holding = `
kind: Detection
name: test.hold
spec:
  version: "1"
  title: A test
  watch: [call.denied]
  key: agent
  measures:
    calls: count("1m")
  when: calls >= limit("calls")
  limits: {calls: "3", calls@production: "100"}
  severity: low
  response: %s
  seen: "{calls} calls"
  tests:
    three: |
      call.denied agent=a x3
      => fires agent/a
`

func (w *world) put(text string) error {
	w.t.Helper()
	specs, err := detection.ReadSpecs([]byte(text))
	if err != nil {
		return err
	}
	err = w.log.Change(ctx, func(tx *audit.Tx) error {
		for _, s := range specs {
			if _, err := w.PutTx(ctx, tx, person, "a test", s); err != nil {
				return err
			}
		}
		return nil
	})
	w.poll()
	return err
}

func (w *world) posture(agent string) detection.Posture {
	w.t.Helper()
	p, err := w.Posture(ctx, agent)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func TestAnAgentIsHeldUntilAPersonLiftsIt(t *testing.T) {
	lite(t, func(w *world) {
		if err := w.put(fmt.Sprintf(holding, "hold\n  approvers: security\n  for: 1h")); err != nil {
			w.t.Fatal(err)
		}
		w.enforce("test.hold")
		w.settle()
		w.hop("bot", "key_1", 3, time.Now())
		w.settle()
		if p := w.posture("bot"); p.Held == "" || p.Approvers != "security" {
			w.t.Errorf("%+v", p)
		}
		if p := w.posture("other"); p.Held != "" || p.Wait != 0 {
			w.t.Errorf("another agent: %+v", p)
		}
		if _, err := w.Lift(ctx, person, "fine", w.of("test.hold", false)[0].ID); err != nil {
			w.t.Fatal(err)
		}
		if p := w.posture("bot"); p.Held != "" {
			w.t.Errorf("lifted, but %+v", p)
		}
	})
}

// What a throttled agent may do is counted on all replicas together, and nobody who
// cannot be counted may call.
func TestAThrottledAgentIsSlowOnAllReplicas(t *testing.T) {
	each(t, func(w *world) {
		if err := w.put(fmt.Sprintf(holding, "throttle\n  rate: \"5\"")); err != nil {
			w.t.Fatal(err)
		}
		w.enforce("test.hold")
		w.settle()
		w.hop("slow", "key_2", 3, time.Now())
		w.settle()
		all := []*world{w, replica(w.t, w.db, w.log), replica(w.t, w.db, w.log)}
		made, began := 0, time.Now()
		for i := range 60 {
			if all[i%len(all)].posture("slow").Wait == 0 {
				made++
			}
		}
		if most := 6 + int(time.Since(began)/(12*time.Second)); made < 5 || made > most { // one comes back each twelve seconds
			w.t.Errorf("%d of 60 calls on three replicas, %d are allowed", made, most)
		}
		w.db.Close()
		if _, err := w.Posture(ctx, "slow"); err == nil {
			w.t.Error("it may call, although nobody can count it")
		}
		if p := w.posture("quick"); p.Wait != 0 {
			w.t.Errorf("another agent: %+v", p)
		}
	})
}

func TestABadRuleChangesNothing(t *testing.T) {
	lite(t, func(w *world) {
		before := w.Rules()
		for what, text := range map[string]string{
			"a test that fails":    strings.Replace(fmt.Sprintf(holding, "notify"), "x3", "x2", 1),
			"an unknown fact":      strings.Replace(fmt.Sprintf(holding, "notify"), `when: calls >= limit("calls")`, `when: password == "x"`, 1),
			"a text for a number":  strings.Replace(fmt.Sprintf(holding, "notify"), `when: calls >= limit("calls")`, `when: calls >= agent`, 1),
			"no truth":             strings.Replace(fmt.Sprintf(holding, "notify"), `when: calls >= limit("calls")`, `when: calls`, 1),
			"a loop":               strings.Replace(fmt.Sprintf(holding, "notify"), `when: calls >= limit("calls")`, `when: all([1,2], # > calls)`, 1),
			"a missing limit":      strings.Replace(fmt.Sprintf(holding, "notify"), `limit("calls")`, `limit("call")`, 1),
			"an unknown key":       strings.Replace(fmt.Sprintf(holding, "notify"), "key: agent", "key: password", 1),
			"an unknown field":     strings.Replace(fmt.Sprintf(holding, "notify"), "severity: low", "severities: low", 1),
			"hold without people":  fmt.Sprintf(holding, "hold"),
			"no window":            strings.Replace(fmt.Sprintf(holding, "notify"), `count("1m")`, `count()`, 1),
			"a window of nothing":  strings.Replace(fmt.Sprintf(holding, "notify"), `count("1m")`, `count("1ms")`, 1),
			"an expression's bomb": strings.Replace(fmt.Sprintf(holding, "notify"), `when: calls >= limit("calls")`, "when: "+strings.Repeat("!", 1500)+"true", 1),
		} {
			if err := w.put(text); err == nil {
				w.t.Errorf("%s: accepted", what)
			}
		}
		if got := w.Rules(); len(got) != len(before) {
			w.t.Errorf("%d rules, %d before", len(got), len(before))
		}
	})
}

func TestTheProvidersBill(t *testing.T) {
	each(t, func(w *world) {
		w.enforce("provider.surplus")
		w.settle()
		hour := time.Now().UTC().Truncate(time.Hour)
		ev := audit.Event{Type: audit.CallIntent, Actor: audit.Actor{Kind: audit.KindAgent}, Connection: "openai", Tool: "chat.completions", Agent: "bot", Call: id.New(id.Call)}
		receipt, err := w.log.Intent(ctx, ev)
		if err != nil {
			w.t.Fatal(err)
		}
		ev.Type, ev.Outcome = audit.CallOutcome, &audit.Outcome{Status: audit.Succeeded, Usage: &audit.Usage{Model: "gpt-5-2026-01-01", Input: 40_000, Output: 10_000}}
		w.log.Outcome(receipt, ev)
		for end := time.Now().Add(30 * time.Second); w.count(audit.CallOutcome) == 0 && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		w.settle()
		w.flush()
		bill := func(tokens int64) []detection.Compared {
			out, err := w.Reconcile(ctx, person, "monthly", []detection.Used{{Connection: "openai", Model: "gpt-5", Hour: hour, Tokens: tokens}})
			if err != nil {
				w.t.Fatal(err)
			}
			w.settle()
			return out
		}
		if got := bill(50_500); got[0].Surplus != 0 || got[0].Log != 50_000 || len(w.rotated) != 0 {
			w.t.Errorf("%+v, rotated %v", got, w.rotated)
		}
		if got := bill(90_000); got[0].Surplus != 40_000 || !slices.Equal(w.rotated, []string{"openai"}) {
			w.t.Errorf("%+v, rotated %v", got, w.rotated)
		}
		if _, err := w.Reconcile(ctx, person, "x", []detection.Used{{Model: "m"}}); err == nil {
			w.t.Error("a row that says nothing")
		}
	})
}

// contain measures, so many times, how long it takes from the event that decides
// until the credential is refused, with the follower at work.
func (w *world) contain(times int) []time.Duration {
	w.enforce("")
	w.settle()
	if err := w.Service.Start(ctx); err != nil {
		w.t.Fatal(err)
	}
	defer w.Service.Stop(ctx)
	var out []time.Duration
	for i := range times {
		key := id.New("key")
		w.hop(fmt.Sprintf("bot-%d", i), key, 10, time.Now())
		began := time.Now()
		w.asks(fmt.Sprintf("bot-%d", i), key, "the eleventh", began)
		for w.poll(); w.locks.Check(locks.Subject{Credential: key}) == nil; w.poll() {
			if time.Since(began) > 30*time.Second {
				w.t.Fatal("nobody stops it")
			}
			time.Sleep(time.Millisecond)
		}
		out = append(out, time.Since(began))
	}
	slices.Sort(out)
	return out
}

// TestTheBench writes docs/detection-bench.md (make detection-bench).
func TestTheBench(t *testing.T) {
	path := os.Getenv("COUNTERSIGN_DETECTION_BENCH")
	if path == "" {
		t.Skip("make detection-bench runs it")
	}
	lite(t, func(w *world) {
		if err := os.WriteFile(path, []byte(detection.MonthReport(t, 1, w.contain(100))), 0o644); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhileItRunsACredentialIsCut(t *testing.T) {
	each(t, func(w *world) { w.contain(2) })
}
