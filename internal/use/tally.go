package use

import (
	"cmp"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// pair is an agent and a tool.
type pair struct{ agent, connection, tool string }

// key says what a tally counts: the calls of a pair in a stage on a day, all of
// them (rule "") or those that a rule determined.
type key struct {
	pair
	rule, stage string
	day         int64
}

// tally is what calls came to. Times are in microseconds since 1970.
type tally struct {
	allowed, denied, held             int64
	first, last, lastDenied, lastHeld int64  // first and last are of allowed calls
	event                             string // the last allowed call's
	args                              map[string]*Observed
}

// grantRule is how a grant is called among rules.
const grantRule = "grant:"

const microsPerDay = int64(24 * time.Hour / time.Microsecond)

func dayOf(micros int64) int64 { return micros / microsPerDay }

// day returns when a day began.
func day(n int64) time.Time { return storage.Time(n * microsPerDay) }

// counts reports whether an event is the decision about an agent's call.
func counts(ev *audit.Event) bool {
	switch ev.Type {
	case audit.CallIntent, audit.CallDenied, audit.CallHeld:
		return ev.Agent != "" && ev.Connection != "" && ev.Tool != "" && ev.Decision != nil
	}
	return false
}

// triedRule ends how a grant is called that is tried otherwise: of its calls,
// those that it would refuse as it is tried.
const triedRule = "#tried"

// rules returns what determined a call, and "" for the pair itself.
func rules(ev *audit.Event) []string {
	out := []string{""}
	for _, g := range ev.Decision.Grants {
		out = append(out, grantRule+g)
	}
	for _, g := range ev.Decision.Shadow {
		out = append(out, grantRule+g+triedRule)
	}
	return append(out, ev.Decision.Policies...)
}

// add counts one call.
func (t *tally) add(ev *audit.Event) {
	at := storage.Micros(ev.Time)
	switch ev.Type {
	case audit.CallIntent:
		t.merge(&tally{allowed: 1, first: at, last: at, event: ev.ID})
	case audit.CallDenied:
		t.denied++
		t.lastDenied = max(t.lastDenied, at)
	default:
		t.held++
		t.lastHeld = max(t.lastHeld, at)
	}
}

// merge adds what other calls came to.
func (t *tally) merge(o *tally) {
	if o.last > t.last || o.last == t.last && o.event > t.event {
		t.event = o.event
	}
	if t.first == 0 || o.first != 0 && o.first < t.first {
		t.first = o.first
	}
	t.allowed, t.denied, t.held = t.allowed+o.allowed, t.denied+o.denied, t.held+o.held
	t.last, t.lastDenied, t.lastHeld = max(t.last, o.last), max(t.lastDenied, o.lastDenied), max(t.lastHeld, o.lastHeld)
	for path, p := range o.args {
		t.at(path, p.Kind).merge(p)
	}
}

// at returns what is kept of an argument.
func (t *tally) at(path, kind string) *Observed {
	if t.args == nil {
		t.args = map[string]*Observed{}
	}
	if t.args[path] == nil {
		t.args[path] = &Observed{Kind: kind}
	}
	return t.args[path]
}

func isGrant(rule string) bool {
	return strings.HasPrefix(rule, grantRule) && !strings.HasSuffix(rule, triedRule)
}

func compareKeys(a, b key) int {
	return cmp.Or(cmp.Compare(a.agent, b.agent), cmp.Compare(a.connection, b.connection), cmp.Compare(a.tool, b.tool), cmp.Compare(a.rule, b.rule),
		cmp.Compare(a.stage, b.stage), cmp.Compare(a.day, b.day))
}
