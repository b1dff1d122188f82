package detection

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
)

// Errors of this package.
var (
	ErrRule     = fault.New(fault.Invalid, "invalid_rule", "the detection rule cannot be used")
	ErrNotFound = fault.New(fault.NotFound, "detection_not_found", "there is no such detection")
	ErrNoRule   = fault.New(fault.NotFound, "rule_not_found", "there is no such detection rule; countersign detection status lists them")
	ErrBuiltin  = fault.New(fault.Conflict, "rule_built_in", "a built-in rule cannot be deleted; countersign detection mode sets it to observe")
	ErrEnded    = fault.New(fault.Conflict, "detection_ended", "the act of this detection has ended already")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why: give a reason of at most 1000 characters (--reason)")
	ErrMode     = fault.New(fault.Invalid, "invalid_mode", "a rule's mode is observe, enforce or off")
	ErrTrace    = fault.New(fault.Invalid, "invalid_trace", "the trace cannot be read")
	ErrUsage    = fault.New(fault.Invalid, "invalid_usage", "the provider's usage cannot be read")
)

// What a rule may do.
const (
	Notify         = "notify"
	Hold           = "hold"            // every call of the agent waits for people
	Throttle       = "throttle"        // the agent makes at most so many calls a minute
	LockCredential = "lock-credential" // the credential that was presented makes no call any more
	LockAgent      = "lock-agent"
	Rotate         = "rotate" // the connection's upstream secret is replaced
)

// Responses lists them, the mildest first.
var Responses = []string{Notify, Hold, Throttle, LockCredential, LockAgent, Rotate}

// The modes of a rule.
const (
	Observe = "observe" // a finding says what would have been done
	Enforce = "enforce"
	Off     = "off"
)

// Modes lists them.
var Modes = []string{Observe, Enforce, Off}

// Spec is a rule as people write it.
type Spec struct {
	ID        string            `yaml:"-" json:"id"`
	Version   string            `yaml:"version" json:"version" doc:"of the rule, for people"`
	Title     string            `yaml:"title" json:"title"`
	Watch     []string          `yaml:"watch" json:"watch" doc:"types of events; signal for what other rules found"`
	Key       string            `yaml:"key" json:"key" doc:"what is counted for: credential, agent, network, actor, connection, object or all"`
	Where     string            `yaml:"where,omitempty" json:"where,omitempty" doc:"which of the events"`
	Measures  map[string]string `yaml:"measures,omitempty" json:"measures,omitempty" doc:"what is counted"`
	When      string            `yaml:"when" json:"when" doc:"when it fires"`
	Limits    map[string]string `yaml:"limits,omitempty" json:"limits,omitempty" doc:"numbers; name@class for agents of a stage, or with a label key=value"`
	Learning  string            `yaml:"learning,omitempty" json:"learning,omitempty" doc:"how long it learns what is normal of an agent"`
	Quiet     string            `yaml:"quiet,omitempty" json:"quiet,omitempty" doc:"how long it says nothing again about the same; 10m if absent"`
	Severity  string            `yaml:"severity" json:"severity"`
	Weight    string            `yaml:"weight,omitempty" json:"weight,omitempty" doc:"what it adds where signals add up"`
	Response  string            `yaml:"response,omitempty" json:"response,omitempty" doc:"notify if absent"`
	For       string            `yaml:"for,omitempty" json:"for,omitempty" doc:"how long the response lasts; until it is lifted if absent"`
	Approvers string            `yaml:"approvers,omitempty" json:"approvers,omitempty" doc:"the group that decides about calls that hold"`
	Rate      string            `yaml:"rate,omitempty" json:"rate,omitempty" doc:"calls a minute, of throttle"`
	Seen      string            `yaml:"seen" json:"seen" doc:"what was seen, with {expressions}"`
	Normal    string            `yaml:"normal,omitempty" json:"normal,omitempty" doc:"what would be normal, with {expressions}"`
	Tests     map[string]string `yaml:"tests,omitempty" json:"tests,omitempty" doc:"traces, and what must come of them"`
}

// Plain leaves out what goes without saying, so that equal rules are equal.
func (s Spec) Plain() Spec {
	if s.Response == Notify {
		s.Response = ""
	}
	return s
}

// keyKind is what a rule counts for.
type keyKind int

const (
	byCredential keyKind = iota
	byAgent
	byNetwork
	byActor
	byConnection
	byObject
	byAll
	keyKinds
)

var keyNames = [keyKinds]string{"credential", "agent", "network", "actor", "connection", "object", "all"}

func (k keyKind) of(f *Fact) string {
	switch k {
	case byCredential:
		return f.Credential
	case byAgent:
		return f.Agent
	case byNetwork:
		return f.Network
	case byActor:
		return f.Actor
	case byConnection:
		return f.Connection
	case byObject:
		return f.Object
	}
	return "all"
}

// rule is a rule that can be run.
type rule struct {
	Spec
	form     string // what its state is saved under
	mode     string
	custom   bool
	key      keyKind
	where    func(*moment) bool
	measures []measure
	when     func(*moment) bool
	limits   []*limit
	learning int64 // microseconds
	quiet    int64
	weight   float64
	lasts    time.Duration
	rate     int
	seen     template
	normal   template
}

// limit is a number, and others for some classes of agents.
type limit struct {
	name  string
	value float64
	class map[string]float64 // by stage or label
}

// of is the limit for the agent that an event is about: a label says more than a stage.
func (l *limit) of(m *moment) float64 {
	if len(l.class) == 0 {
		return l.value
	}
	v, ok := l.class[m.fact.Stage]
	if !ok {
		v = l.value
	}
	if m.engine.labels != nil {
		for _, label := range m.engine.labels(m.fact.Agent) {
			if own, ok := l.class[label]; ok {
				return own
			}
		}
	}
	return v
}

func (r *rule) limit(name string) *limit {
	for _, l := range r.limits {
		if l.name == name {
			return l
		}
	}
	return nil
}

var (
	ruleForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	typeForm = regexp.MustCompile(`^(signal|[a-z_]{1,30}\.[a-z_]{1,33})$`)
)

// compileRule checks a rule and makes it ready to run. The error names the field.
func compileRule(s Spec) (*rule, error) {
	r := &rule{Spec: s, mode: Observe}
	for _, step := range []func() error{r.words, r.readLimits, r.numbers, r.expressions, r.texts} {
		if err := step(); err != nil {
			return nil, ErrRule.Say("%s: %s", s.ID, err)
		}
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n", s.Key, s.Where)
	for _, m := range r.measures {
		fmt.Fprintf(sum, "%s=%s\n", m.name, s.Measures[m.name])
	}
	r.form = s.ID + "@" + hex.EncodeToString(sum.Sum(nil)[:6])
	return r, nil
}

func (r *rule) words() error {
	s := r.Spec
	switch {
	case !ruleForm.MatchString(s.ID):
		return errors.New("its name must be 1 to 63 of a-z, 0-9, '.', '_' and '-'")
	case s.Title == "" || len(s.Title) > 200:
		return errors.New("title: must have 1 to 200 bytes")
	case len(s.Watch) == 0 || len(s.Watch) > 32:
		return errors.New("watch: name 1 to 32 types of events")
	case !slices.Contains(findings.Severities, s.Severity):
		return fmt.Errorf("severity: must be one of %s", strings.Join(findings.Severities, ", "))
	case s.Response != "" && !slices.Contains(Responses, s.Response):
		return fmt.Errorf("response: must be one of %s", strings.Join(Responses, ", "))
	case s.Response == Hold && s.Approvers == "":
		return errors.New("approvers: name the group that decides about held calls")
	case s.Approvers != "" && !ruleForm.MatchString(s.Approvers):
		return errors.New("approvers: must be the name of a group")
	case len(s.Tests) > 32:
		return errors.New("tests: at most 32")
	}
	for _, t := range s.Watch {
		if !typeForm.MatchString(t) {
			return fmt.Errorf("watch: %.40q is no type of events", t)
		}
	}
	i := slices.Index(keyNames[:], s.Key)
	if i < 0 {
		return fmt.Errorf("key: must be one of %s", strings.Join(keyNames[:], ", "))
	}
	r.key = keyKind(i)
	if r.Response == "" {
		r.Response = Notify
	}
	return nil
}

func (r *rule) readLimits() error {
	if len(r.Limits) > 32 {
		return errors.New("limits: at most 32")
	}
	for _, full := range slices.Sorted(maps.Keys(r.Limits)) {
		name, class, classed := strings.Cut(full, "@")
		v, err := strconv.ParseFloat(r.Limits[full], 64)
		if err != nil || !(v >= 0 && v < 1e15) || !nameForm.MatchString(name) {
			return fmt.Errorf("limits.%.60s: must be a name and a number that is not negative", full)
		}
		l := r.limit(name)
		if l == nil {
			l = &limit{name: name, value: -1, class: map[string]float64{}}
			r.limits = append(r.limits, l)
		}
		if classed {
			l.class[class] = v
		} else {
			l.value = v
		}
	}
	for _, l := range r.limits {
		if l.value < 0 {
			return fmt.Errorf("limits.%s: needs a value for agents of no class", l.name)
		}
	}
	return nil
}

func (r *rule) numbers() error {
	for _, d := range []struct {
		field, text string
		into        *int64
		standard    time.Duration
	}{{"learning", r.Learning, &r.learning, 0}, {"quiet", r.Quiet, &r.quiet, 10 * time.Minute}, {"for", r.For, (*int64)(&r.lasts), 0}} {
		v := d.standard
		if d.text != "" {
			var err error
			if v, err = duration(d.text); err != nil {
				return fmt.Errorf("%s: %w", d.field, err)
			}
		}
		*d.into = v.Microseconds()
	}
	r.lasts *= time.Microsecond
	if r.Weight != "" {
		w, err := strconv.ParseFloat(r.Weight, 64)
		if err != nil || !(w >= 0 && w <= 1000) {
			return errors.New("weight: must be 0 to 1000")
		}
		r.weight = w
	}
	if r.Response == Throttle {
		n, err := strconv.Atoi(r.Rate)
		if err != nil || n < 1 || n > 100_000 {
			return errors.New("rate: must be 1 to 100000 calls a minute")
		}
		r.rate = n
	}
	return nil
}

func (r *rule) expressions() error {
	if len(r.Measures) > maxMeasures {
		return fmt.Errorf("measures: at most %d", maxMeasures)
	}
	sc := scope{rule: r}
	if r.Where != "" {
		c, err := sc.compile(r.Where, truth)
		if err != nil {
			return fmt.Errorf("where: %w", err)
		}
		r.where = c.yes
	}
	names := slices.Sorted(maps.Keys(r.Measures))
	for _, name := range names {
		if !nameForm.MatchString(name) || textFacts[name] != nil || numberFacts[name] != nil || name == "learning" {
			return fmt.Errorf("measures.%.40s: a measure's name is small letters, digits and _, and no fact's", name)
		}
		m, err := sc.compileMeasure(name, r.Measures[name])
		if err != nil {
			return fmt.Errorf("measures.%s: %w", name, err)
		}
		r.measures = append(r.measures, m)
	}
	sc.measures = names
	c, err := sc.compile(r.When, truth)
	if err != nil {
		return fmt.Errorf("when: %w", err)
	}
	r.when = c.yes
	return nil
}

func (r *rule) texts() (err error) {
	sc := scope{rule: r, measures: slices.Sorted(maps.Keys(r.Measures))}
	if r.seen, err = sc.template(r.Seen); err != nil {
		return fmt.Errorf("seen: %w", err)
	}
	if r.Seen == "" {
		return errors.New("seen: say what was seen")
	}
	if r.normal, err = sc.template(r.Normal); err != nil {
		return fmt.Errorf("normal: %w", err)
	}
	return nil
}

// template is a text with expressions.
type template []func(*moment) string

func (s scope) template(source string) (template, error) {
	var t template
	for rest := source; rest != ""; {
		plain, after, more := strings.Cut(rest, "{")
		if plain != "" {
			t = append(t, func(*moment) string { return plain })
		}
		if !more {
			break
		}
		expr, after, closed := strings.Cut(after, "}")
		if !closed {
			return nil, errors.New("a { is not closed")
		}
		n, err := parse(expr)
		if err != nil {
			return nil, err
		}
		c, err := s.node(n)
		if err != nil {
			return nil, err
		}
		t, rest = append(t, c.show), after
	}
	return t, nil
}

// show writes a value for people. What came from outside is quoted and cut.
func (c compiled) show(m *moment) string {
	switch c.sort {
	case number:
		return strconv.FormatFloat(float64(int64(c.num(m)*100+0.5))/100, 'f', -1, 64)
	case truth:
		return strconv.FormatBool(c.yes(m))
	}
	s := c.str(m)
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return strconv.Quote(s)
}

func (t template) String(m *moment) string {
	var b strings.Builder
	for _, part := range t {
		b.WriteString(part(m))
	}
	return b.String()
}
