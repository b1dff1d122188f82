package connections

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections/argschema"
	"github.com/countersign/countersign/internal/findings"
)

// The rules of findings about what a definition looks like. They are signals for
// who accepts tools: what holds a tool is its pin, and the check of its arguments.
const (
	RuleShadows   = "tool.shadows"          // another connection has a tool of the name
	RuleImitates  = "tool.imitates"         // a name that looks like another
	RuleHidden    = "tool.hidden_text"      // characters that people do not see
	RuleInstructs = "tool.instructs"        // words that address the model: telemetry
	RuleSchema    = "tool.schema_unchecked" // a schema that cannot be checked, or not wholly
)

// mostSuspects is how many findings one look at a connection opens.
const mostSuspects = 50

// suspects looks at the definitions of one connection beside those of all others.
type suspects struct {
	s      *Service
	c      Connection
	others map[string][]string // "connection/tool" by what its name looks like
	words  map[string]string   // by a telling name of a tool: its connection
	left   int
}

// suspects prepares a look at what a connection lists: names are all of it.
func (s *Service) suspects(c Connection, names []string) *suspects {
	l := &suspects{s: s, c: c, others: map[string][]string{}, words: map[string]string{}, left: mostSuspects}
	if c.Kind != MCP {
		return l
	}
	for _, name := range names {
		l.add(c.Name, name)
	}
	for _, o := range s.Connections() {
		if o.Name == c.Name || !o.ServesTools() {
			continue
		}
		for _, t := range s.Tools(o.Name) {
			if !t.Offered() || t.Status == StatusGone || t.Builtin {
				continue
			}
			l.add(o.Name, t.Name)
			if len(t.Name) >= 6 && strings.ContainsAny(t.Name, "_-.") {
				l.words[t.Name] = o.Name
			}
		}
	}
	return l
}

func (l *suspects) add(connection, tool string) {
	k := looks(tool)
	if full := connection + "/" + tool; !slices.Contains(l.others[k], full) {
		l.others[k] = append(l.others[k], full)
	}
}

// at opens findings about one definition.
func (l *suspects) at(ctx context.Context, tx *audit.Tx, def Definition) error {
	if l.c.Kind != MCP {
		return nil
	}
	for _, f := range l.about(def) {
		if l.left--; l.left < 0 {
			return nil
		}
		f.Object = toolObject(l.c.Name, def.Name)
		if err := l.s.findings.OpenTx(ctx, tx, f); err != nil {
			return err
		}
	}
	return nil
}

func (l *suspects) about(def Definition) (out []findings.Finding) {
	add := func(rule, severity, title, detail string) {
		out = append(out, findings.Finding{Rule: rule, Severity: severity, Title: fmt.Sprintf(title, l.c.Name+"/"+def.Name), Detail: detail})
	}
	same, alike := l.namesakes(def.Name)
	if len(alike) > 0 {
		add(RuleImitates, findings.High, "The name of %s looks like another tool's", "It looks like "+shown(strings.Join(alike, ", "))+", and is written as "+shown(def.Name)+". A model, and a person, takes one for the other. Look at both, and do not accept the one that imitates.")
	}
	if len(same) > 0 {
		add(RuleShadows, findings.Low, "%s has the name of another connection's tool", "The other is "+shown(strings.Join(same, ", "))+". A model that is told both may call one for the other; a proposal counts only with the connection's name in it (docs/runs.md).")
	}
	p, err := parseDefinition(def)
	if err != nil {
		return out
	}
	if pair := oddNames(p.InputSchema); pair != "" {
		add(RuleImitates, findings.High, "An argument of %s looks like another", "It is "+pair+". What is said of one argument is not said of the other.")
	}
	texts := textsOf(def.Raw)
	if strings.ContainsFunc(texts, unseen) {
		add(RuleHidden, findings.High, "The definition of %s holds characters that people do not see", "Models read them. Look with: countersign tool show "+l.c.Name+"/"+def.Name+", which escapes them.")
	}
	if why := l.addresses(texts); why != "" {
		add(RuleInstructs, findings.Medium, "The definition of %s addresses the model", why+". This is telemetry: such words can be worded differently, and their absence proves nothing. What holds the tool is its pin.")
	}
	switch schema := argschema.New(p.InputSchema); {
	case schema.Unusable() != "":
		add(RuleSchema, findings.Medium, "The arguments of %s cannot be checked", "Its schema cannot be used: "+schema.Unusable()+". Calls of it are refused.")
	case len(schema.Unchecked()) > 0:
		add(RuleSchema, findings.Info, "The arguments of %s are not wholly checked", "Not checked is "+shown(strings.Join(schema.Unchecked(), ", "))+".")
	}
	return out
}

// namesakes returns the tools of the very name on other connections, and those
// anywhere whose names look like it.
func (l *suspects) namesakes(name string) (same, alike []string) {
	for _, full := range l.others[looks(name)] {
		connection, other, _ := strings.Cut(full, "/")
		switch {
		case other != name:
			alike = append(alike, full)
		case connection != l.c.Name:
			same = append(same, full)
		}
	}
	slices.Sort(same)
	slices.Sort(alike)
	return same[:min(len(same), 5)], alike[:min(len(alike), 5)]
}

// addresses says how a definition speaks to the model, or about the tools of
// others; empty if it does not.
func (l *suspects) addresses(texts string) string {
	if l.s.instructs != nil {
		if rules := l.s.instructs([]byte(texts)); len(rules) > 0 {
			return "Found is " + strings.Join(rules, ", ")
		}
	}
	for word := range strings.FieldsFuncSeq(texts, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-.", r)
	}) {
		if of, ok := l.words[strings.TrimRight(word, ".-")]; ok {
			return "It speaks of a tool of " + of + ": " + shown(word)
		}
	}
	return ""
}

// textsOf returns every text of a definition, names of members too.
func textsOf(raw jsontext.Value) string {
	var b strings.Builder
	d := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		t, err := d.ReadToken()
		if err != nil {
			return b.String()
		}
		if t.Kind() == '"' {
			b.WriteString(t.String())
			b.WriteByte('\n')
		}
	}
}

// oddNames returns the names of arguments of one object that look like each
// other, or one that is not what it looks like; empty if there is none.
func oddNames(schema jsontext.Value) string {
	var node struct {
		Properties map[string]jsontext.Value `json:"properties"`
	}
	if json.Unmarshal(schema, &node) != nil {
		return ""
	}
	seen := map[string]string{}
	for name, inner := range node.Properties {
		k := looks(name)
		if other, ok := seen[k]; ok {
			return shown(min(name, other)) + " beside " + shown(max(name, other))
		}
		seen[k] = name
		if strings.ContainsFunc(name, unseen) || masked(name) {
			return shown(name)
		}
		if odd := oddNames(inner); odd != "" {
			return odd
		}
	}
	return ""
}

// unseen reports whether people do not see a character and models do.
func unseen(r rune) bool {
	return r != '\u200d' && unicode.Is(unicode.Cf, r) || r >= 0xe0100 && r <= 0xe01ef || r == '\u3164' || r == '\u115f' || r == '\u1160' || r == '\u2800'
}

// masked reports whether a name mixes ASCII letters with letters that look like
// them.
func masked(name string) bool {
	latin, other := false, false
	for _, r := range name {
		_, alike := lookAlikes[r]
		latin = latin || r < 0x80 && unicode.IsLetter(r)
		other = other || alike || wide(r)
	}
	return latin && other
}

func wide(r rune) bool { return r >= 0xff01 && r <= 0xff5e }

// looks returns what a name looks like: names that people and models may take
// for each other look the same.
func looks(name string) string {
	var b strings.Builder
	for _, r := range name {
		if plain, ok := lookAlikes[r]; ok {
			r = plain
		}
		if wide(r) {
			r = r - 0xff01 + '!'
		}
		switch {
		case strings.ContainsRune("_-. /:", r) || unseen(r) || unicode.Is(unicode.Mn, r):
			continue
		case strings.ContainsRune("Ii1|", r): // whatever the case, they are alike in some font
			r = 'l'
		case r == '0':
			r = 'o'
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.NewReplacer("rn", "m", "vv", "w").Replace(b.String())
}

// lookAlikes are Cyrillic and Greek letters that cannot be told from Latin ones.
var lookAlikes = func() map[rune]rune {
	const theirs, ours = "аеорсхуіјѕһԁԛԝӏАВЕКМНОРСТХУІЈЅονιαΑΒΕΗΙΚΜΝΟΡΤΧΥΖıȷ", "aeopcxyijshdqwlABEKMHOPCTXYIJSovaiABEHIKMNOPTXYZij"
	m, to := map[rune]rune{}, []rune(ours)
	i := 0
	for _, r := range theirs {
		m[r] = to[i]
		i++
	}
	return m
}()

// RulePoses is of findings about answers.
const RulePoses = "tool.answer_poses"

// Posed opens a finding about a tool whose answer to a call looked like a
// listing of tools or a message of the system. It does not wait for it.
func (s *Service) Posed(connection, tool, call string) {
	f := findings.Finding{Rule: RulePoses, Severity: findings.Medium, Object: toolObject(connection, tool),
		Title: fmt.Sprintf("An answer of %s/%s poses as something else", connection, tool),
		Detail: "It holds what looks like a listing of tools or a message of the system, which a model may take for one: " + call +
			". This is telemetry: the answer passed, with the label injection. Look at it with: countersign log search 'call:" + call + "'"}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.note(ctx, f); err != nil {
			s.logger.Error("cannot open a finding", "connection", connection, "rule", f.Rule, "error", err)
		}
	}()
}
