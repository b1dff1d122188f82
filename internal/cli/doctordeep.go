package cli

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/countersign/countersign/client"
)

// deepParts are what an audit of the log looks at, in its order, and what each
// is called.
var deepParts = []struct{ part, name, unit, fix string }{
	{"log", "log and payloads", "records", "keep the database as evidence, and restore a copy from before the change; proofs handed out before still verify"},
	{"tree", "tree and checkpoints", "records", "keep the database as evidence; countersign log verify FILE checks what was exported before"},
	{"index", "search index", "records", "countersign log rebuild makes the index from the log"},
	{"calls", "calls and their outcomes", "records", "countersign log trace RUN, and ask the systems behind them what happened"},
}

// maxShown is how many mismatches of a part are shown one by one.
const maxShown = 20

// examineDeep compares the log with itself, with progress.
func (a *app) examineDeep(ctx context.Context) []client.Check {
	c, err := a.client()
	if err != nil {
		return nil // said already
	}
	checked, inFlight, found := map[string]int64{}, int64(0), map[string][]client.Mismatch{}
	var done int64
	last, shown := "", a.deepProgress()
	err = c.AuditLog(ctx, func(s client.AuditSlice) error {
		checked[s.Part] += s.Checked
		inFlight += s.InFlight
		found[s.Part] = append(found[s.Part], s.Problems...)
		done += s.Checked
		last = s.Part
		shown(s.Part, min(100, 100*done/max(1, s.Total)))
		return nil
	})
	shown("", 0)
	var checks []client.Check
	for _, p := range deepParts {
		if err != nil && (last == p.part || last == "") && len(found[p.part]) == 0 {
			break // not seen to its end
		}
		checks = append(checks, deepCheck(p.part, p.name, p.unit, p.fix, checked[p.part], found[p.part])...)
	}
	if inFlight > 0 {
		checks = append(checks, client.Check{ID: "deep/in-flight", Name: "calls under way", Status: "ok", Detail: fmt.Sprintf("%d", inFlight)})
	}
	if err != nil {
		checks = append(checks, client.Check{ID: "deep", Name: "looking at the log", Status: "fail", Detail: "could not be finished: " + err.Error(), Fix: "countersign doctor --deep"})
	}
	return checks
}

// deepProgress shows how far an audit is: on a terminal in place, elsewhere a
// line for each part. An empty part ends it.
func (a *app) deepProgress() func(part string, percent int64) {
	live, was := term.IsTerminal(int(os.Stderr.Fd())), ""
	return func(part string, percent int64) {
		switch {
		case live && part == "":
			fmt.Fprint(a.stderr, "\r\x1b[K")
		case live:
			fmt.Fprintf(a.stderr, "\r\x1b[Klooking at the %s: %d%%", inert(part, 16), percent)
		case part != "" && part != was:
			fmt.Fprintf(a.stderr, "looking at the %s\n", inert(part, 16))
		}
		was = part
	}
}

// deepCheck is what to say of one part: one line, or one for each mismatch.
func deepCheck(part, name, unit, fix string, checked int64, found []client.Mismatch) []client.Check {
	if len(found) == 0 {
		return []client.Check{{ID: "deep/" + part, Name: name, Status: "ok", Detail: fmt.Sprintf("%d %s match", checked, unit)}}
	}
	var out []client.Check
	for _, m := range found[:min(len(found), maxShown)] {
		out = append(out, client.Check{ID: "deep/" + m.ID, Name: name, Status: "fail", Detail: m.Where + ": " + m.Message})
	}
	if n := len(found) - len(out); n > 0 {
		out = append(out, client.Check{ID: "deep/" + part, Name: name, Status: "fail", Detail: fmt.Sprintf("%d more places do not match", n)})
	}
	out[len(out)-1].Fix = fix
	return out
}
