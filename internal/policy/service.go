package policy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/storage"
)

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "policy_not_found", "there is no such policy file")
	ErrNoGrant  = fault.New(fault.NotFound, "grant_not_found", "there is no such grant")
	ErrName     = fault.New(fault.Invalid, "bad_policy_name", "a policy file's name must be 1 to 100 lower case letters, digits, dots, hyphens or underscores")
	ErrProblems = fault.New(fault.Invalid, "policy_invalid", "the policy has problems and was not saved")
	ErrChanged  = fault.New(fault.Conflict, "policy_changed", "someone else changed it at the same time; look again and repeat")
	ErrReason   = fault.New(fault.Invalid, "bad_reason", "a reason must be at most 1000 characters of plain text")
	ErrStanding = fault.New(fault.Invalid, "standing_right", "a grant that lets an agent in production do what cannot be undone needs an end, or an exception")
	ErrExpired  = fault.New(fault.Invalid, "grant_expired", "a grant must expire in the future")
	ErrNoAgent  = fault.New(fault.Invalid, "unknown_agent", "there is no agent of this name")
	ErrNoEvent  = fault.New(fault.Invalid, "event_not_explained", "only events of a call can be explained")
	ErrCase     = fault.New(fault.Invalid, "bad_case", "the call is not described well enough to be explained")
	ErrNotReady = fault.New(fault.Unavailable, "policies_not_loaded", "the policies are not loaded yet; try again")
)

// version is the name under which changes of this room are announced.
const version = "policy"

// Options of a Service.
type Options struct {
	Now    func() time.Time // nil means time.Now
	Logger *slog.Logger     // nil discards
	// Findings is told when a policy no longer fits the tools. Nil only logs.
	Findings *findings.Service
	// Agents finds a registered agent, for tests, explanations and to refuse a
	// grant to an agent that does not exist. Nil finds none and refuses none.
	Agents func(name string) (Agent, bool)
	// All lists the registered agents, for Lint and Conflicts. Nil: there are none.
	All func() []Agent
	// Matched says which rules determined calls since a time, for Lint. Nil: that
	// is not known.
	Matched func(ctx context.Context, since time.Time) (Matched, error)
	// People finds the person of a recorded principal chain, for explanations.
	// Nil finds none.
	People func(a audit.Actor) (User, bool)
	// ToolsChanged is the name under which the tools' room announces changes;
	// empty means "connections". That room must register with the watcher
	// before this one does.
	ToolsChanged string
}

// Service keeps policies and grants and decides by them. It is safe for
// concurrent use.
type Service struct {
	db     *storage.DB
	log    *audit.Log
	watch  *storage.Watcher
	tools  Tools
	o      Options
	engine atomic.Pointer[engine]
	guard  giving
	meant  func(ctx context.Context) (func(Grant) bool, error) // of grants without an end

	mu       sync.Mutex // guards what follows, and that engines follow each other
	content  *content   // nil until it was read
	known    bool       // the tools were announced once
	verdicts verdicts
	reported map[string]string // findings opened by this process: object to detail
}

// New returns a Service and registers its view with watch. Until watch has
// polled, every call is denied.
func New(db *storage.DB, log *audit.Log, watch *storage.Watcher, tools Tools, o Options) (*Service, error) {
	if tools == nil {
		return nil, fmt.Errorf("policy: tools are required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ToolsChanged == "" {
		o.ToolsChanged = "connections"
	}
	s := &Service{db: db, log: log, watch: watch, tools: tools, o: o, reported: map[string]string{}}
	watch.On(version, s.reload)
	watch.On(o.ToolsChanged, s.Refresh)
	return s, nil
}

// Guard says who is asked, inside the change, before a grant is given that gives
// more than it did: an error undoes the change. It must be called before the Service
// is used.
func (s *Service) Guard(fn func(ctx context.Context, tx *audit.Tx, g Grant) error) { s.guard = fn }

// Meant says which grants without an end somebody answers for, so that Lint does not
// find them. It must be called before the Service is used.
func (s *Service) Meant(fn func(ctx context.Context) (func(Grant) bool, error)) { s.meant = fn }

// reload reads policies and grants anew.
func (s *Service) reload(ctx context.Context) error {
	files, err := readFiles(ctx, s.db, "")
	if err != nil {
		return err
	}
	rows, err := readGrants(ctx, s.db, "")
	if err != nil {
		return err
	}
	c := content{files: map[string]string{}}
	for _, f := range files {
		c.files[f.Name] = f.Text
	}
	for _, g := range rows {
		c.grants = append(c.grants, g.Grant)
	}
	if c.shadows, err = readShadows(ctx, s.db); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content = &c
	return s.rebuild(ctx)
}

// Refresh makes the schema follow the registered tools. It runs by itself when
// they are announced as changed.
func (s *Service) Refresh(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = true
	return s.rebuild(ctx)
}

func (s *Service) rebuild(ctx context.Context) error {
	if s.content == nil {
		return nil
	}
	ts, err := newToolset(s.tools.ToolTypes())
	if err != nil {
		return err
	}
	e, used := build(*s.content, ts, s.verdicts)
	s.verdicts = used
	s.shadowed(e, *s.content)
	s.engine.Store(e)
	if s.known { // before, every policy would seem to name tools that do not exist
		s.report(ctx, e)
	}
	return nil
}

// ruleUnfit is the rule of findings about policies that no longer fit.
const ruleUnfit = "policy.unfit"

// report opens a finding per file or grant with problems and closes those that
// are well again. A finding that cannot be written is tried again at the next
// change; it must not keep the replica from deciding.
func (s *Service) report(ctx context.Context, e *engine) {
	details := map[string]string{}
	for _, p := range e.problems {
		object := "policy/" + p.File
		if name, ok := cutGrant(p.File); ok {
			object = "grant/" + name
		}
		details[object] += p.String() + "\n"
	}
	for object, detail := range details {
		if s.reported[object] == detail {
			continue
		}
		s.o.Logger.Warn("a policy does not fit the registered tools; calls it concerns are denied", "object", object, "problems", detail)
		if s.o.Findings != nil {
			err := s.o.Findings.Open(ctx, findings.Finding{Rule: ruleUnfit, Severity: findings.High, Object: object,
				Title:  object + " does not fit the registered tools; it is kept, and calls it concerns are denied until it is revised",
				Detail: detail})
			if err != nil {
				s.o.Logger.Error("a finding could not be opened", "object", object, "error", err)
				continue
			}
		}
		s.reported[object] = detail
	}
	for object := range s.reported {
		if _, still := details[object]; still {
			continue
		}
		if s.o.Findings != nil {
			err := s.log.Change(ctx, func(tx *audit.Tx) error {
				return s.o.Findings.CloseObjectTx(ctx, tx, audit.System, object, "it fits the registered tools again, or is gone", ruleUnfit)
			})
			if err != nil {
				s.o.Logger.Error("a finding could not be closed", "object", object, "error", err)
				continue
			}
		}
		delete(s.reported, object)
	}
}

// Decide answers req in memory. Until the policies are loaded, and while this
// replica cannot see changes, it denies.
func (s *Service) Decide(req Request) Decision {
	e := s.engine.Load()
	if e == nil || !s.watch.Fresh() {
		return Decision{Reason: "the policies cannot be seen now; try again"}
	}
	if req.Now.IsZero() {
		req.Now = s.o.Now()
	}
	d := e.decide(&req)
	e.observe(&req, &d)
	return d
}

// Version returns the version of the policies and grants in force, as
// decisions name it; "" until they are loaded.
func (s *Service) Version() string {
	if e := s.engine.Load(); e != nil {
		return e.version
	}
	return ""
}

// Rule returns the digest of what a policy or grant says now, as decisions name
// it; "" if there is none of the name.
func (s *Service) Rule(name string) string {
	if e := s.engine.Load(); e != nil {
		return e.digests[name]
	}
	return ""
}

// Text returns the policy with this @id, in Cedar, as it is in force; "" if there
// is none.
func (s *Service) Text(id string) string {
	e := s.engine.Load()
	if e == nil {
		return ""
	}
	for _, r := range e.rules {
		if r.id == id {
			return strings.TrimSpace(r.text)
		}
	}
	return ""
}

// Provenance reports whether any policy asks where the values of calls come from,
// or about the run, whose labels say what it has read.
func (s *Service) Provenance() bool {
	e := s.engine.Load()
	return e != nil && e.provenance
}

// Budget reports whether any policy asks what is left of budgets.
func (s *Service) Budget() bool {
	e := s.engine.Load()
	return e != nil && (e.budget || e.shadow != nil && e.shadow.budget)
}

// MayHold reports whether a call of the tool by a may have to wait for people,
// for some arguments: a forbid that holds is about it.
func (s *Service) MayHold(a Agent, act Action) bool {
	e := s.engine.Load()
	return e != nil && e.mayHold(&a, act)
}

// Visible reports whether a list shown to a should contain the tool: some
// permit's or grant's scope matches, whatever its conditions, and no plain
// forbid without conditions does.
func (s *Service) Visible(a Agent, act Action) bool {
	e := s.engine.Load()
	return e != nil && s.watch.Fresh() && e.visible(&a, act, s.o.Now())
}

// Sees reports whether any tool of the connection is visible to a.
func (s *Service) Sees(a Agent, connection string) bool {
	e := s.engine.Load()
	return e != nil && s.watch.Fresh() && e.sees(&a, connection, s.o.Now())
}

// Problems lists what is wrong with saved policies and grants, which happens
// when tools change under them.
func (s *Service) Problems() []Problem {
	if e := s.engine.Load(); e != nil {
		return slices.Clone(e.problems)
	}
	return nil
}

// Schema returns the generated Cedar schema, and notes on what policy cannot
// see of the tools.
func (s *Service) Schema() (string, []string) {
	e := s.engine.Load()
	if e == nil {
		return "", nil
	}
	return e.ts.text(), e.ts.notes
}

// Check parses and validates text as the policy file called name against the
// registered tools. It returns what PutPolicies would refuse.
func (s *Service) Check(name, text string) ([]Problem, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, ErrNotReady
	}
	return e.check(name, text), nil
}

// Test runs cases against the saved policies and grants, with the files in
// overlay added or in place of those saved; an empty text leaves a file out.
func (s *Service) Test(cases []Case, overlay map[string]string) ([]Result, []Problem, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, nil, ErrNotReady
	}
	var problems []Problem
	if len(overlay) > 0 {
		s.mu.Lock()
		c, old := content{files: map[string]string{}, grants: s.content.grants}, s.verdicts
		for name, text := range s.content.files {
			c.files[name] = text
		}
		s.mu.Unlock()
		for name, text := range overlay {
			if c.files[name] = text; text == "" {
				delete(c.files, name)
			}
		}
		e, _ = build(c, e.ts, old)
		problems = e.problems
	}
	return e.test(cases, s.o.Agents, s.o.Now()), problems, nil
}

// Why explains a recorded or hypothetical request. A zero Now means now.
func (s *Service) Why(req Request) (Explanation, error) {
	e := s.engine.Load()
	if e == nil {
		return Explanation{}, ErrNotReady
	}
	if req.Now.IsZero() {
		req.Now = s.o.Now()
	}
	return e.why(&req), nil
}
