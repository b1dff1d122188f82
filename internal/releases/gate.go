package releases

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
)

// Rooms are what the gate asks of rooms that this one does not know. A nil one is
// asked nothing, and its item says so.
type Rooms struct {
	// Secret returns who owns a secret and whether it is rotated, or lasts so short
	// that it need not be.
	Secret func(name string) (owner string, rotated, known bool)
	// Budgeted reports whether anything bounds what an agent may use.
	Budgeted func(a identity.Agent) bool
	// Reviewed returns when each grant, by name, was last kept by a reviewer.
	Reviewed func(ctx context.Context) (map[string]time.Time, error)
	// Withheld returns the grants of an agent, by name, that a review revoked last:
	// no release gives them back.
	Withheld func(ctx context.Context, tx *audit.Tx, agent string) (map[string]bool, error)
}

// ReviewedWithin is how long a review of a grant counts.
const ReviewedWithin = 90 * 24 * time.Hour

// Item is one thing that must be so before a release goes above development.
type Item struct {
	ID       string `json:"id"`
	OK       bool   `json:"ok"`
	Accepted bool   `json:"accepted,omitzero" doc:"it is missing, and the asker accepts that by name"`
	May      bool   `json:"may_accept,omitzero" doc:"its lack may be accepted by name"`
	What     string `json:"what" doc:"what was found"`
	Mend     string `json:"mend,omitempty" doc:"the command that mends it"`
}

// Report is what the gate found.
type Report struct {
	Agent  string `json:"agent"`
	Number int64  `json:"number" doc:"0: there is no release"`
	Stage  string `json:"stage"`
	Ready  bool   `json:"ready"`
	Items  []Item `json:"items"`
}

// Gate says whether a release may go to a stage, and what is missing. Of number 0
// the newest is meant; an agent without one is shown what it has. A stage that is
// empty is the agent's.
func (s *Service) Gate(ctx context.Context, agent string, number int64, stage string, accepted []string) (Report, error) {
	a, ok := s.o.Identity.Agent(agent)
	if !ok {
		return Report{}, ErrNoAgent.Say("there is no agent %q", agent)
	}
	if stage == "" {
		stage = a.Stage
	}
	if !slices.Contains(identity.Stages, stage) {
		return Report{}, ErrInvalid.Say("stage: %.80q must be one of %s", stage, strings.Join(identity.Stages, ", "))
	}
	r, err := s.Get(ctx, agent, number)
	if err != nil && number != 0 {
		return Report{}, err
	}
	if err != nil {
		if r.Content, err = s.live(ctx, agent); err != nil {
			return Report{}, err
		}
	}
	return s.report(ctx, a, r, stage, accepted)
}

func (s *Service) report(ctx context.Context, a identity.Agent, r Release, stage string, accepted []string) (Report, error) {
	g := &gate{s: s, a: a, r: r, stage: stage}
	g.release()
	g.people()
	g.connections()
	g.grants()
	g.approvals()
	g.budget()
	g.effects()
	if err := g.tests(); err != nil {
		return Report{}, err
	}
	if err := g.review(ctx); err != nil {
		return Report{}, err
	}
	for _, name := range accepted {
		i := slices.IndexFunc(g.items, func(it Item) bool { return it.ID == name })
		switch {
		case i < 0:
			return Report{}, ErrInvalid.Say("accept: %.80q is no item of the gate; countersign release check %s lists them", name, a.Name)
		case !g.items[i].May:
			return Report{}, ErrInvalid.Say("accept: %s must be mended, not accepted: %s", name, g.items[i].Mend)
		}
		g.items[i].Accepted = !g.items[i].OK
	}
	out := Report{Agent: a.Name, Number: r.Number, Stage: stage, Ready: true, Items: g.items}
	for _, it := range g.items {
		out.Ready = out.Ready && (it.OK || it.Accepted)
	}
	return out, nil
}

// ready returns ErrGate if a release does not pass the gate for what is asked.
// Nothing is asked of development.
func (s *Service) ready(ctx context.Context, a identity.Agent, r Release, q Request) error {
	if q.Stage == identity.Development {
		return nil
	}
	rep, err := s.report(ctx, a, r, q.Stage, q.Accepted)
	if err != nil || rep.Ready {
		return err
	}
	var lines []string
	for _, it := range rep.Items {
		if !it.OK && !it.Accepted {
			lines = append(lines, it.ID+": "+it.What+"; "+it.Mend)
		}
	}
	return ErrGate.Say("release %d of %s is not ready for %s:\n%s", r.Number, a.Name, q.Stage, strings.Join(lines, "\n"))
}

// gate collects items about one release.
type gate struct {
	s     *Service
	a     identity.Agent
	r     Release
	stage string
	items []Item
}

// must adds an item that is well if wrong is empty.
func (g *gate) must(id, wrong, well, mend string) {
	it := Item{ID: id, OK: wrong == "", What: well}
	if wrong != "" {
		it.What, it.Mend = wrong, mend
	}
	g.items = append(g.items, it)
}

// may is must of something whose lack may be accepted.
func (g *gate) may(id, wrong, well, mend string) {
	g.must(id, wrong, well, mend)
	g.items[len(g.items)-1].May = true
}

func (g *gate) release() {
	wrong := ""
	if g.r.Number == 0 {
		wrong = "the agent has no release: it is in development"
	}
	g.must("release", wrong, fmt.Sprintf("release %d pins %d tools", g.r.Number, len(g.r.Tools)), "countersign release create "+g.a.Name+" --reason TEXT")
	models := false
	for _, t := range g.r.Tools {
		c, ok := g.s.o.Connections.Connection(t.Connection)
		models = models || ok && c.Kind == connections.LLM
	}
	if wrong = ""; models && len(g.r.Models) == 0 {
		wrong = "it may use models, and the release pins none"
	}
	g.must("models", wrong, orNothing("models pinned: ", g.r.Models), "countersign release create "+g.a.Name+" --model CONNECTION/MODEL --reason TEXT")
}

func orNothing(before string, list []string) string {
	if len(list) == 0 {
		return before + "none"
	}
	return before + strings.Join(list, ", ")
}

func (g *gate) active(user string) bool {
	u, ok := g.s.o.Identity.User(user)
	return ok && !u.Disabled
}

func (g *gate) people() {
	wrong := ""
	switch {
	case !g.active(g.a.Owner):
		wrong = "the owner " + g.a.Owner + " is not active"
	case g.a.Backup == "":
		wrong = "there is no backup owner"
	case !g.active(g.a.Backup):
		wrong = "the backup owner " + g.a.Backup + " is not active"
	}
	g.must("owner", wrong, "owner "+g.a.Owner+", backup "+g.a.Backup, "countersign agent owner "+g.a.Name+" USER --backup USER --reason TEXT")
	if wrong = ""; g.a.Purpose == "" || g.a.BusinessProcess == "" {
		wrong = "it does not say for what purpose and business process it is"
	}
	g.must("purpose", wrong, g.a.BusinessProcess+": "+g.a.Purpose, "countersign agent update "+g.a.Name+" --purpose TEXT --business-process TEXT")
}

// used are the connections of the release, by name.
func (g *gate) used() []connections.Connection {
	var out []connections.Connection
	for _, c := range g.s.o.Connections.Connections() {
		if slices.ContainsFunc(g.r.Tools, func(t Tool) bool { return t.Connection == c.Name }) {
			out = append(out, c)
		}
	}
	return out
}

func (g *gate) connections() {
	dark, open, asked := "", "", map[string]bool{}
	mendDark, mendOpen := "", ""
	for _, c := range g.used() {
		if c.Capture == connections.CaptureDigest && dark == "" {
			dark, mendDark = "of calls to "+c.Name+" only digests are kept", "countersign connection update "+c.Name+" --capture redacted"
		}
		if (len(c.Stages) == 0 || !c.Serves(g.stage)) && open == "" {
			open, mendOpen = "the connection "+c.Name+" does not say that it is for "+g.stage, "countersign connection update "+c.Name+" --stages "+strings.Join(append(slices.Clone(c.Stages), g.stage), ",")
		}
		for _, name := range c.SecretNames() {
			if !asked[name] {
				asked[name] = true
				g.secret(name)
			}
		}
	}
	g.must("logging", dark, "every call is logged, with its arguments and answers", mendDark)
	g.must("stages", open, "every connection is for "+g.stage, mendOpen)
}

func (g *gate) secret(name string) {
	if g.s.o.Rooms.Secret == nil {
		return
	}
	owner, rotated, known := g.s.o.Rooms.Secret(name)
	wrong := ""
	switch {
	case !known:
		wrong = "there is no secret " + name
	case !g.active(owner):
		wrong = "the owner " + owner + " of the secret " + name + " is not active"
	}
	g.must("secret:"+name, wrong, "owned by "+owner, "countersign secret put "+name+" --owner USER --reason TEXT")
	if wrong = ""; known && !rotated {
		wrong = "nothing rotates the secret " + name
	}
	g.may("rotation:"+name, wrong, "it is rotated", "countersign secret put "+name+" --rotate KEY=VALUE --reason TEXT")
}

func (g *gate) grants() {
	wrong, mend := "", ""
	for _, x := range g.r.Grants {
		if slices.Contains(x.Tools, "*") && x.Expires.IsZero() {
			wrong, mend = "the grant "+x.Name+" gives every tool of "+x.Connection+", those that come later too, without an end", "countersign grant add "+x.Name+" --agent "+g.a.Name+" --connection "+x.Connection+" --tool TOOL --reason TEXT, then countersign release create "+g.a.Name
			break
		}
	}
	g.must("wildcards", wrong, fmt.Sprintf("%d grants, each for named tools or for a time", len(g.r.Grants)), mend)
}

// approvals: whoever a call may wait for is there to answer.
func (g *gate) approvals() {
	who := policyAgent(g.a)
	who.Stage = g.stage
	wrong, mend, holds := "", "", 0
	for _, t := range g.r.Tools {
		for _, h := range g.s.o.Policy.Holds(who, policy.Action{Connection: t.Connection, Tool: t.Name}) {
			if holds++; wrong == "" && g.answerers(h) < h.Quorum {
				wrong = fmt.Sprintf("policy %s holds %s for %d of %s, and fewer active people may answer", h.Policy, t.path(), h.Quorum, strings.Join(h.Groups, ", "))
				mend = "countersign group add " + h.Groups[0] + " USER"
			}
		}
	}
	g.must("approvals", wrong, fmt.Sprintf("%d rules hold calls, and each is answerable", holds), mend)
}

// answerers counts the active people who may answer a hold.
func (g *gate) answerers(h policy.Needed) int {
	may := map[string]bool{}
	for _, name := range h.Groups {
		group, _ := g.s.o.Identity.Group(name)
		for _, m := range group.Members {
			if g.active(m) && !(h.ExcludeOwner && m == g.a.Owner) {
				may[m] = true
			}
		}
	}
	return len(may)
}

func (g *gate) budget() {
	if g.s.o.Rooms.Budgeted == nil {
		return
	}
	wrong := ""
	if !g.s.o.Rooms.Budgeted(g.a) {
		wrong = "nothing bounds what it uses"
	}
	g.must("budget", wrong, "what it uses is bounded", "countersign budget set "+g.a.Name+" --agent "+g.a.Name+" --calls N --per day --reason TEXT")
}

// effects: what a tool does can be undone, or somebody accepts by name that not.
func (g *gate) effects() {
	for _, t := range g.r.Tools {
		if t.Effect == connections.Read {
			continue
		}
		c, _ := g.s.o.Connections.Connection(t.Connection)
		now, ok := g.s.o.Connections.Tool(t.Connection, t.Name)
		if c.Kind == connections.LLM || ok && now.Builtin && now.Protocol() {
			continue
		}
		wrong := ""
		if !ok || now.References.Undo.Tool == "" {
			wrong = "nothing undoes what " + t.path() + " does (" + t.Effect + ")"
		}
		g.may("undo:"+t.path(), wrong, "undone by "+now.References.Undo.Tool, "countersign tool undo "+t.path()+" --by CONNECTION/TOOL --reason TEXT")
	}
}

// tests: the release's cases pass with its own policies, and there are some.
func (g *gate) tests() error {
	mend := "countersign release create " + g.a.Name + " --tests FILE --reason TEXT"
	if len(g.r.Tests) == 0 {
		g.must("tests", "the release has no policy tests", "", mend)
		return nil
	}
	overlay := map[string]string{}
	for _, p := range g.r.Policies {
		if p.Own {
			overlay[p.Name] = p.Text
		}
	}
	results, problems, err := g.s.o.Policy.Test(g.r.Tests, overlay)
	if err != nil {
		return err
	}
	wrong := ""
	for _, r := range results {
		if !r.Passed && wrong == "" {
			wrong = "the test " + r.Name + " fails: " + r.Problem
		}
	}
	if len(problems) > 0 {
		wrong = "a policy of the release has a problem: " + problems[0].String()
	}
	g.must("tests", wrong, fmt.Sprintf("%d policy tests pass", len(results)), mend)
	return nil
}

func (g *gate) review(ctx context.Context) error {
	const mend = "countersign review start NAME"
	if g.s.o.Rooms.Reviewed == nil {
		g.may("review", "nobody reviewed its grants", "", mend)
		return nil
	}
	at, err := g.s.o.Rooms.Reviewed(ctx)
	if err != nil {
		return err
	}
	wrong := ""
	for _, x := range g.r.Grants {
		switch last := at[x.Name]; {
		case wrong != "":
		case last.IsZero():
			wrong = "nobody reviewed the grant " + x.Name
		case g.s.o.Now().Sub(last) > ReviewedWithin:
			wrong = "the grant " + x.Name + " was last reviewed on " + last.UTC().Format(time.DateOnly)
		}
	}
	g.may("review", wrong, "its grants were reviewed in the last 90 days", mend)
	return nil
}
