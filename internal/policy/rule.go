package policy

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Limits on a policy file.
const (
	MaxPolicyText  = 256 << 10 // bytes
	maxNesting     = 64        // brackets; the parser and evaluator recurse
	maxChain       = 128       // attributes and operators in a row; the validator takes the square of it, for each tool
	maxAdvice      = 500       // bytes
	maxHoldPeriod  = 30 * 24 * time.Hour
	maxQuorum      = 20
	maxPolicyIDLen = 100
)

// Problem is something wrong with a policy or a grant, for people.
type Problem struct {
	File    string `json:"file"`            // policy file's name, or grant:NAME
	Policy  string `json:"policy,omitzero"` // id of the policy
	Line    int    `json:"line,omitzero"`   // from 1; 0 if it concerns the whole
	Column  int    `json:"column,omitzero"` // from 1, in characters
	Message string `json:"message"`         // what is wrong and what to do
}

// String returns file:line:column: policy: message.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
	}
	if p.Policy != "" && p.Policy != p.File {
		s += ": " + p.Policy
	}
	return s + ": " + p.Message
}

// rule is one policy, compiled. It does not change once in an engine.
type rule struct {
	id      string
	file    string
	source  *source
	text    string // its own part of the file
	digest  string // of what it says, see says
	offset  int
	policy  *cedar.Policy
	ast     *ast.Policy
	key     cedar.PolicyID // position in the engine, see number
	forbid  bool
	hold    *Needed // set on a forbid that holds
	advice  string
	apart   []string                 // actions that whoever may do what it is about must not be able to do
	grant   string                   // name, if it is a grant
	expires time.Time                // zero if never
	needs   parts                    // of the context
	unfit   *verdict                 // tools whose schema it does not fit
	buckets map[types.EntityUID]bool // of the index, if there are several
}

// source is a file, kept for positions.
type source struct{ name, text string }

func (r *rule) number(i int) {
	r.key = cedar.PolicyID(binary.BigEndian.AppendUint32(nil, uint32(i))) //nolint:gosec // far fewer
}

func numberOf(k cedar.PolicyID) int { return int(binary.BigEndian.Uint32([]byte(k))) }

// says returns everything that the rule says, however it is laid out.
func (r *rule) says() string {
	until := ""
	if !r.expires.IsZero() {
		until = r.expires.UTC().Format(time.RFC3339Nano)
	}
	return r.id + "\n" + until + "\n" + string(r.policy.MarshalCedar())
}

func (r *rule) unconditional() bool { return len(r.ast.Conditions) == 0 }

func (r *rule) expired(now time.Time) bool { return !r.expires.IsZero() && !now.Before(r.expires) }

// problem reports something at a byte offset of the file.
func (r *rule) problem(at int, format string, args ...any) Problem {
	p := r.source.at(at)
	p.Policy, p.Message = r.id, fmt.Sprintf(format, args...)
	return p
}

func (s *source) at(offset int) Problem {
	offset = min(max(offset, 0), len(s.text))
	before := s.text[:offset]
	line := strings.Count(before, "\n")
	column := len([]rune(before[strings.LastIndexByte(before, '\n')+1:])) + 1
	return Problem{File: s.name, Line: line + 1, Column: column}
}

var position = regexp.MustCompile(`(?s)^.*?parse error at (?:[^ ]*?:)?(\d+):(\d+)(.*)$`)

// parseFile compiles a file's policies. It returns no rules if there is any
// problem.
func parseFile(name, text string) ([]*rule, []Problem) {
	src := &source{name, text}
	switch {
	case len(text) > MaxPolicyText:
		return nil, []Problem{{File: name, Message: fmt.Sprintf("the file is larger than %d KiB; split it", MaxPolicyText>>10)}}
	case strings.ContainsRune(text, 0) || strings.ToValidUTF8(text, "") != text:
		return nil, []Problem{{File: name, Message: "the file is not UTF-8 text"}}
	}
	if at, why := tooDeep(text); why != "" {
		p := src.at(at)
		p.Message = why
		return nil, []Problem{p}
	}
	list, err := cedar.NewPolicyListFromBytes(name, []byte(text))
	if err != nil {
		return nil, []Problem{syntaxProblem(src, err)}
	}
	var rules []*rule
	var problems []Problem
	ids := map[string]bool{}
	for i, p := range list {
		r := &rule{file: name, source: src, policy: p, ast: (*ast.Policy)(p.AST()), forbid: p.Effect() == cedar.Forbid, offset: p.Position().Offset}
		end := len(text)
		if i+1 < len(list) {
			end = list[i+1].Position().Offset
		}
		r.text = strings.TrimSpace(text[r.offset:end])
		r.id = fmt.Sprintf("%s#%d", name, i+1)
		r.needs = needsOf(r)
		problems = append(problems, r.annotate()...)
		if ids[r.id] {
			problems = append(problems, r.problem(r.offset, "two policies of this file have the id %q; give each its own", r.id))
		}
		ids[r.id] = true
		rules = append(rules, r)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return rules, nil
}

func syntaxProblem(src *source, err error) Problem {
	m := position.FindStringSubmatch(err.Error())
	if m == nil {
		return Problem{File: src.name, Message: "syntax: " + strings.TrimPrefix(err.Error(), "parser error: ")}
	}
	p := Problem{File: src.name, Message: "syntax: at or just before " + strings.Replace(strings.TrimLeft(m[3], ": "), `""`, "the end", 1)}
	p.Line, _ = strconv.Atoi(m[1])
	p.Column, _ = strconv.Atoi(m[2])
	return p
}

// tooDeep finds where brackets are nested too deep, or operators that nest
// without brackets follow each other for too long, and says so. It ignores strings and
// comments only so far as they are well-formed; elsewhere it may refuse more.
func tooDeep(text string) (int, string) {
	depth, chain := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '/':
			if strings.HasPrefix(text[i:], "//") {
				for i < len(text) && text[i] != '\n' {
					i++
				}
			}
		case '.', '!', '+', '-', '*':
			if chain++; chain > maxChain {
				return i, fmt.Sprintf("more than %d attributes or operators follow each other", maxChain)
			}
		case ';', ',', '&', '|':
			chain = 0
		case '(', '[', '{':
			if depth++; depth > maxNesting {
				return i, fmt.Sprintf("brackets are nested deeper than %d levels", maxNesting)
			}
		case ')', ']', '}':
			depth = max(depth-1, 0)
		}
	}
	return 0, ""
}

// The annotations that mean something.
var ours = []string{"id", "approval", "quorum", "decide_within", "execute_within", "advice", "execute", "exclude", "escalate", "strength", "apart"}

var (
	groupName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	hyphens   = strings.NewReplacer("-", "", "_", "")
)

// annotate reads the annotations. What looks like one of ours but is not, or
// would do nothing, is an error: it would look like protection and be none.
func (r *rule) annotate() []Problem {
	values := map[string]string{}
	var problems []Problem
	bad := func(key, format string, args ...any) {
		problems = append(problems, r.problem(r.find("@"+key), "@"+key+": "+format, args...))
	}
	for _, a := range r.ast.Annotations {
		key := string(a.Key)
		values[key] = string(a.Value)
		if like := resembles(key); like != "" {
			bad(key, "no such annotation; did you mean @%s?", like)
		}
	}
	if v, ok := values["id"]; ok {
		if why := badID(v); why != "" {
			bad("id", "%s", why)
		} else {
			r.id = v
		}
	}
	if r.advice = values["advice"]; len(r.advice) > maxAdvice || hasControl(r.advice) {
		bad("advice", "must be one line of at most %d bytes", maxAdvice)
	}
	if v, ok := values["apart"]; ok && !r.forbid {
		bad("apart", "has no meaning on a permit; put it on a forbid about what must be apart from what it names")
	} else if ok {
		r.annotateApart(v, bad)
	}
	_, holds := values["approval"]
	for _, key := range []string{"approval", "quorum", "decide_within", "execute_within", "execute", "exclude", "escalate", "strength"} {
		if _, ok := values[key]; ok && !r.forbid {
			bad(key, "has no meaning on a permit; put it on a forbid that describes what needs approval")
		} else if ok && !holds {
			bad(key, "has no meaning without @approval(\"group\")")
		}
	}
	if holds && r.forbid {
		r.hold = r.holdOf(values, bad)
	}
	return problems
}

func (r *rule) holdOf(values map[string]string, bad func(key, format string, args ...any)) *Needed {
	h := &Needed{Policy: r.id, Quorum: 1, DecideWithin: DefaultDecideWithin, ExecuteWithin: DefaultExecuteWithin, Advice: r.advice}
	for g := range strings.SplitSeq(values["approval"], ",") {
		g = strings.TrimSpace(g)
		if !groupName.MatchString(g) || slices.Contains(h.Groups, g) {
			bad("approval", "must name one or more different groups, separated by commas, such as @approval(\"finance-controllers\")")
			break
		}
		h.Groups = append(h.Groups, g)
	}
	if v, ok := values["quorum"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxQuorum || strconv.Itoa(n) != v {
			bad("quorum", "must be a whole number from 1 to %d, such as @quorum(\"2\")", maxQuorum)
		}
		h.Quorum = n
	}
	for key, into := range map[string]*time.Duration{"decide_within": &h.DecideWithin, "execute_within": &h.ExecuteWithin} {
		if v, ok := values[key]; ok {
			d, err := time.ParseDuration(v)
			if err != nil || d < time.Second || d > maxHoldPeriod {
				bad(key, "must be a duration from 1s to 720h, such as \"15m\" or \"4h\"")
			}
			*into = d
		}
	}
	h.holdMore(values, bad)
	return h
}

// holdMore reads who else may answer a hold, who may not, and who makes the call then.
func (h *Needed) holdMore(values map[string]string, bad func(key, format string, args ...any)) {
	if v, ok := values["execute"]; ok {
		if v != "server" && v != "retry" {
			bad("execute", "must be \"retry\" (the agent makes the call again) or \"server\" (it is made when it is approved)")
		}
		h.Server = v == "server"
	}
	if v, ok := values["strength"]; ok {
		if v != "passkey" {
			bad("strength", "must be \"passkey\": whoever approves signs with their passkey")
		}
		h.Passkey = true
	}
	if v, ok := values["exclude"]; ok {
		if v != "owner" {
			bad("exclude", "must be \"owner\": the agent's owner may not approve")
		}
		h.ExcludeOwner = true
	}
	if v, ok := values["escalate"]; ok {
		for part := range strings.SplitSeq(v, ",") {
			group, after, _ := strings.Cut(strings.TrimSpace(part), ":")
			d, err := time.ParseDuration(after)
			if !groupName.MatchString(group) || err != nil || d < time.Second || d >= h.DecideWithin {
				bad("escalate", "must say which groups may answer too and after how long, before decide_within is over, such as @escalate(\"finance-leads:1h,board:3h\")")
				break
			}
			h.Escalate = append(h.Escalate, Tier{Group: group, After: d})
		}
	}
}

func badID(v string) string {
	switch {
	case v == "" || len(v) > maxPolicyIDLen || hasControl(v) || strings.TrimSpace(v) != v:
		return fmt.Sprintf("must be 1 to %d bytes of one line", maxPolicyIDLen)
	case strings.HasPrefix(v, "grant:"):
		return "must not begin with grant: (that is how grants are named)"
	}
	return ""
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

// resembles returns which of our annotations key was probably meant to be, ""
// if it is one of them or is clearly something else.
func resembles(key string) string {
	if slices.Contains(ours, key) {
		return ""
	}
	plain := hyphens.Replace(strings.ToLower(key))
	for _, o := range ours {
		known := hyphens.Replace(o)
		near := 2
		if len(known) < 6 {
			near = 0 // only case and separators: everything is near "id", and @part or @start are somebody's own
		}
		if distance(plain, known, near) <= near || (o == "approval" && strings.HasPrefix(plain, "appro")) {
			return o
		}
	}
	return ""
}

// find returns the offset of word in the policy's own text, or its beginning.
func (r *rule) find(word string) int {
	text := r.source.text[r.offset : r.offset+min(len(r.text), len(r.source.text)-r.offset)]
	for from := 0; word != ""; {
		i := strings.Index(text[from:], word)
		if i < 0 {
			break
		}
		i += from
		if !isWord(text, i-1) && !isWord(text, i+len(word)) {
			return r.offset + i
		}
		from = i + 1
	}
	return r.offset
}

func isWord(s string, i int) bool {
	if i < 0 || i >= len(s) {
		return false
	}
	c := s[i]
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// actions returns the actions a rule's scope names, or that it names none and
// so means any. An empty set names none and means none.
func (r *rule) actions() (uids []types.EntityUID, all bool) {
	switch s := r.ast.Action.(type) {
	case ast.ScopeTypeEq:
		return []types.EntityUID{s.Entity}, false
	case ast.ScopeTypeIn:
		return []types.EntityUID{s.Entity}, false
	case ast.ScopeTypeInSet:
		return s.Entities, false
	}
	return nil, true
}
