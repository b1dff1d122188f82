package detection

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
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/storage"
)

// The bound on findings of one rule: more of them in burstFor are counted, and
// told as one. Responses are never left out.
const (
	burstMost = 30
	burstFor  = 10 * time.Minute
)

// burst counts what a rule found.
type burst struct {
	from    time.Time
	n, more int
}

// admit reports whether a signal is told by itself.
func (f *follower) admit(rule string, now time.Time) bool {
	b := f.flood[rule]
	if b == nil {
		b = &burst{from: now}
		f.flood[rule] = b
	}
	if now.Sub(b.from) >= burstFor {
		*b = burst{from: now}
	}
	b.n++
	if b.n > burstMost {
		b.more++
		return false
	}
	return true
}

// commit stores what was counted together with what follows from it.
func (f *follower) commit(ctx context.Context, found []Signal) error {
	now := f.s.o.Now()
	var told []Signal
	crowded := map[string]int{}
	for _, sig := range found {
		acts := sig.rule.mode == Enforce && sig.rule.Response != Notify
		if ok := f.admit(sig.Rule, now); ok || acts {
			told = append(told, sig)
			continue
		}
		if n := f.flood[sig.Rule].more; n == 1 || n%1000 == 0 {
			crowded[sig.Rule] = n
		}
	}
	if len(told)+len(crowded) == 0 {
		return f.save(ctx)
	}
	states, err := f.states()
	if err != nil {
		return err
	}
	err = f.s.log.Change(ctx, func(tx *audit.Tx) error {
		if err := f.store(ctx, tx.Tx, states); err != nil {
			return err
		}
		placed := map[string]string{} // the view does not have them yet
		for i := range told {
			if err := f.s.respond(ctx, tx, &told[i], placed, now); err != nil {
				return err
			}
		}
		for _, rule := range sortedKeys(crowded) {
			if err := f.s.crowd(ctx, tx, rule, crowded[rule]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	f.stored()
	if err := f.s.watch.Poll(ctx); err != nil { // the acts stand; the views see them within a moment
		f.s.o.Logger.Warn("detection acted, but the view could not be reloaded", "error", err)
	}
	return nil
}

// crowd tells that a rule fires so often that it is not told one by one.
func (s *Service) crowd(ctx context.Context, tx *audit.Tx, rule string, more int) error {
	tx.Record(event("detection.crowded", audit.System, "detection-rule/"+rule, "", map[string]any{"more": more}))
	return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: "detection.crowded", Severity: findings.High, Object: "detection-rule/" + rule,
		Title:  "the rule " + rule + " fires so often that not all of it is told",
		Detail: fmt.Sprintf("More than %d things fired it within %s. Those beyond are counted, not told one by one; what the rule does when it is set to enforce is still done for each. Somebody may want to hide one thing among many: look at what was found first, and at the log.", burstMost, burstFor)})
}

// respond does, in one change, what a rule asks for.
// placed are the locks of the change, by what they are on.
func (s *Service) respond(ctx context.Context, tx *audit.Tx, sig *Signal, placed map[string]string, now time.Time) error {
	r, object := sig.rule, sig.Object()
	open, err := readDetections(ctx, tx, ` WHERE rule = $1 AND object = $2 AND ended = 0`, sig.Rule, object)
	if err != nil {
		return err
	}
	if len(open) > 0 && open[0].Mode == r.mode && open[0].State != Failed && s.stands(&open[0]) {
		return s.again(ctx, tx, &open[0], sig, now)
	}
	for _, d := range open { // observed until now; or it failed, and may succeed
		if _, err := endDetection(ctx, tx.Tx, d.ID, Expired, audit.System.Name, "it was seen again", now); err != nil {
			return err
		}
	}
	d := Detection{ID: id.At(ID, now), Rule: r.ID, Version: r.Version, Title: r.Title, Severity: r.Severity, Object: object, Agent: sig.Agent, Credential: sig.Credential, Connection: sig.Connection,
		Response: r.Response, Mode: r.mode, State: Observed, Seen: sig.Seen, Normal: sig.Normal, Event: sig.Event, Events: sig.Events, Times: 1 + sig.Again,
		Happened: time.UnixMicro(sig.At).UTC(), Decided: now, Updated: now, key: sig.Key, value: sig.Value, approvers: r.Approvers, rate: int64(r.rate)}
	kind := audit.Type("detection.observed")
	if r.mode == Enforce {
		kind = "detection.acted"
		if err := s.act(ctx, tx, r, &d, placed); err != nil {
			return err
		}
	}
	if err := insertDetection(ctx, tx.Tx, &d); err != nil {
		return err
	}
	tx.Record(detected(kind, &d))
	return s.tell(ctx, tx, &d)
}

// tell opens a finding, or brings it up to date. What is no more than a hint by
// itself adds up, and bothers nobody until it does.
func (s *Service) tell(ctx context.Context, tx *audit.Tx, d *Detection) error {
	if d.Severity == findings.Info {
		return nil
	}
	return s.o.Findings.OpenTx(ctx, tx, d.finding())
}

// stands reports whether the lock of a detection, if it has one, is in force.
func (s *Service) stands(d *Detection) bool {
	return d.Lock == "" || slices.ContainsFunc(s.o.Locks.Active(), func(l locks.Lock) bool { return l.ID == d.Lock })
}

// again brings an open detection up to date.
func (s *Service) again(ctx context.Context, tx *audit.Tx, d *Detection, sig *Signal, now time.Time) error {
	d.Times += 1 + sig.Again
	d.Seen, d.Normal, d.Updated = sig.Seen, sig.Normal, now
	for _, e := range sig.Events {
		if !slices.Contains(d.Events, e) {
			d.Events = append(d.Events, e)
		}
	}
	d.Events = d.Events[max(0, len(d.Events)-20):]
	if err := seenAgain(ctx, tx.Tx, d); err != nil {
		return err
	}
	tx.Record(detected("detection.repeated", d))
	return s.tell(ctx, tx, d)
}

// act makes the response of a rule that enforces. That it cannot be made is told,
// not an error: what was found must not be lost.
func (s *Service) act(ctx context.Context, tx *audit.Tx, r *rule, d *Detection, placed map[string]string) error {
	if d.State = Active; r.lasts > 0 {
		d.Expires = d.Decided.Add(r.lasts)
	}
	var err error
	switch r.Response {
	case Notify:
		d.State, d.Expires = Told, time.Time{}
	case Hold, Throttle:
		if d.Agent == "" {
			err = fault.New(fault.Invalid, "no_agent", "the event names no agent")
			break
		}
		err = storage.Bump(ctx, tx.Tx, version)
	case LockCredential:
		err = s.lock(ctx, tx, r, d, placed, locks.Credential, d.Credential)
	case LockAgent:
		err = s.lock(ctx, tx, r, d, placed, locks.Agent, d.Agent)
	case Rotate:
		d.Expires = time.Time{}
		if s.o.Rotate == nil || d.Connection == "" {
			err = fault.New(fault.Invalid, "no_secret", "the event names no connection whose secret could be replaced")
		} else {
			err = s.o.Rotate(ctx, tx, audit.System, d.because(), d.Connection)
		}
	}
	if err == nil {
		return nil
	}
	if k := fault.KindOf(err); k == fault.Internal || k == fault.Unavailable || errors.Is(err, context.Canceled) {
		return err
	}
	d.State, d.Expires, d.Error = Failed, time.Time{}, fault.Public(err).Message
	return nil
}

// lock stops something, unless detection has stopped it already.
func (s *Service) lock(ctx context.Context, tx *audit.Tx, r *rule, d *Detection, placed map[string]string, kind, name string) error {
	if name == "" {
		return fault.New(fault.Invalid, "nothing_to_lock", "the event names no "+kind)
	}
	for _, l := range s.o.Locks.Active() {
		if l.Kind == kind && l.Name == name && l.By == audit.System.Name && l.Expires.IsZero() {
			d.Lock = l.ID
			return nil
		}
	}
	l := locks.Lock{Kind: kind, Name: name, Reason: d.because()}
	if d.Lock = placed[l.On()]; d.Lock != "" {
		return nil
	}
	l, err := s.o.Locks.AddTx(ctx, tx, audit.System, l, r.lasts)
	if err != nil {
		return err
	}
	if d.Lock = l.ID; l.Expires.IsZero() {
		placed[l.On()] = l.ID
	}
	return nil
}

// because is the reason that a response gives.
func (d *Detection) because() string {
	return clip("detection "+d.ID+" ("+d.Rule+"): "+d.Seen, 900)
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// detected is the event of a detection.
func detected(t audit.Type, d *Detection) audit.Event {
	ev := event(t, audit.System, d.Object, "", map[string]any{"detection": d.ID, "rule": d.Rule, "version": d.Version, "mode": d.Mode, "state": d.State, "response": d.Response, "severity": d.Severity,
		"seen": clip(d.Seen, 500), "normal": clip(d.Normal, 300), "event": d.Event, "lock": d.Lock, "times": d.Times, "decided_us": d.Decided.Sub(d.Happened).Microseconds()})
	ev.Agent, ev.Credential, ev.Connection = d.Agent, d.Credential, d.Connection
	return ev
}

// finding is what people see.
func (d *Detection) finding() findings.Finding {
	title := d.Title
	if d.Agent != "" {
		title += " (" + d.Agent + ")"
	}
	lines := []string{"Seen: " + d.Seen + "."}
	if d.Normal != "" {
		lines = append(lines, "Normal: "+d.Normal+".")
	}
	lines = append(lines, d.outcome())
	if d.Contained > 0 && d.Passed != nil {
		lines = append(lines, fmt.Sprintf("Contained: %.0f ms after the event that decided. Calls that passed until then: %d; in flight and cut: %d.", d.Contained, *d.Passed, d.Cut))
	}
	lines = append(lines, "More: countersign detection show "+d.ID)
	return findings.Finding{Rule: "detection." + d.Rule, Severity: d.Severity, Object: d.Object, Title: title, Detail: strings.Join(lines, "\n"), Events: d.Events}
}

// outcome says what was done about it.
func (d *Detection) outcome() string {
	what := map[string]string{Hold: "every call of the agent waits for " + d.approvers, Throttle: fmt.Sprintf("the agent makes at most %d calls a minute", d.rate),
		LockCredential: "the credential is locked", LockAgent: "the agent is locked", Rotate: "the upstream's secret is being replaced", Notify: "people are told"}[d.Response]
	switch d.State {
	case Observed:
		return "Nothing was done: the rule observes. If it enforced: " + what + ". countersign detection mode " + d.Rule + " enforce"
	case Failed:
		return "Nothing was done, although the rule enforces: " + d.Error + "."
	case Active:
		return "Done: " + what + ". countersign detection lift " + d.ID
	}
	return "Done: " + what + "."
}
