package words

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/inert"
)

// MaxTemplate is the longest template, in bytes.
const MaxTemplate = 500

// Formats are the ways a hole shows its argument. Empty: as it is.
//
//   - money: whole minor units (cents); "money:EUR" names the currency (ISO 4217),
//     "money:currency" the argument that does;
//   - amount: major units, as a number or a string of one; the currency likewise;
//   - count: a whole number, with its thousands apart;
//   - date: an RFC 3339 time or date.
var Formats = []string{"", "money", "amount", "count", "date"}

var (
	hole = regexp.MustCompile(`\{([^{}|]*)(?:\|([^{}]*))?\}`)
	code = regexp.MustCompile(`^[A-Z]{3}$`)
)

// AgentHole is what stands for the agent's name.
const AgentHole = "agent"

// Check says what is wrong with a template for calls with arguments of this
// JSON schema, "" if nothing is. Where the schema lists its properties, a hole
// must name one of them, of a type that its format can show.
func Check(t string, schema jsontext.Value) string {
	switch {
	case len(t) > MaxTemplate || !utf8.ValidString(t) || strings.ContainsFunc(t, inert.Hidden):
		return fmt.Sprintf("must be one line of at most %d bytes, without characters that are not seen", MaxTemplate)
	case strings.ContainsAny(hole.ReplaceAllString(t, ""), "{}"):
		return "has a brace that is not part of {argument} or {argument|format}"
	}
	root := parse(schema)
	for _, m := range hole.FindAllStringSubmatch(t, -1) {
		if m[1] == AgentHole && m[2] == "" {
			continue
		}
		if wrong := checkHole(root, m[1], m[2]); wrong != "" {
			return m[0] + ": " + wrong
		}
	}
	return ""
}

func checkHole(root property, name, spec string) string {
	format, with, _ := strings.Cut(spec, ":")
	if name == "" || !slices.Contains(Formats, format) {
		return "write {argument}, {argument|money:EUR}, {argument|money:currency_argument}, {argument|amount:EUR}, {argument|count} or {argument|date}"
	}
	p, wrong := root.find(name)
	if wrong != "" {
		return wrong
	}
	if !p.may(format) {
		return fmt.Sprintf("%s is declared as %s, which cannot be shown as %s", name, strings.Join(p.types, " or "), format)
	}
	if with != "" && format != "money" && format != "amount" {
		return format + " takes no currency"
	}
	if with == "" || code.MatchString(with) && !root.has(with) {
		return ""
	}
	_, wrong = root.find(with)
	return wrong
}

// property is what we read of a JSON schema.
type property struct {
	types  []string
	listed map[string]property
}

func parse(schema jsontext.Value) property {
	var s struct {
		Type       jsontext.Value            `json:"type"`
		Properties map[string]jsontext.Value `json:"properties"`
	}
	if json.Unmarshal(schema, &s) != nil {
		return property{} // a schema of another form says nothing
	}
	p := property{}
	var one string
	if json.Unmarshal(s.Type, &one) == nil {
		p.types = []string{one}
	} else if json.Unmarshal(s.Type, &p.types) != nil {
		p.types = nil
	}
	for name, sub := range s.Properties {
		if p.listed == nil {
			p.listed = map[string]property{}
		}
		p.listed[name] = parse(sub)
	}
	return p
}

func (p property) has(path string) bool {
	_, wrong := p.find(path)
	return wrong == "" && p.listed != nil
}

func (p property) find(path string) (property, string) {
	for step := range strings.SplitSeq(path, ".") {
		if step == "" || strings.ContainsFunc(step, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			return property{}, "is not the path of an argument such as customer.name"
		}
		if p.listed == nil {
			return property{}, "" // nothing is known from here on
		}
		next, ok := p.listed[step]
		if !ok {
			var known []string
			for name := range p.listed {
				known = append(known, name)
			}
			slices.Sort(known)
			return property{}, fmt.Sprintf("there is no argument %q; there are %s", Short(step), Short(strings.Join(known, ", ")))
		}
		p = next
	}
	return p, ""
}

// may reports whether a value of p's type can be shown in a format. "null" in
// a list of types is nothing to show.
func (p property) may(format string) bool {
	if len(p.types) == 0 {
		return true
	}
	fit := map[string][]string{"": {"string", "number", "integer", "boolean"}, "money": {"integer", "number"}, "amount": {"number", "integer", "string"},
		"count": {"integer", "number"}, "date": {"string"}}[format]
	return slices.ContainsFunc(p.types, func(t string) bool { return slices.Contains(fit, t) })
}

// Part is a piece of a sentence. A Name says that its text is a call's own.
type Part struct {
	Text string `json:"text"`
	Name string `json:"name,omitempty" doc:"the argument that the text shows; empty: it is the template's own"`
}

// Render fills a template such as "{agent} wants to pay
// {amount_cents|money:EUR} to {payee}". False if an argument that it names is
// not there: a sentence with a hole says less than the arguments.
func Render(template, agent string, args []Argument) ([]Part, bool) {
	byName := map[string]Argument{}
	for _, a := range args {
		byName[a.Name] = a
	}
	if _, there := byName[AgentHole]; !there {
		byName[AgentHole] = Argument{Name: AgentHole, Value: inert.Text(agent)}
	}
	var out []Part
	at := 0
	for _, m := range hole.FindAllStringSubmatchIndex(template, -1) {
		name, spec := template[m[2]:m[3]], ""
		if m[4] >= 0 {
			spec = template[m[4]:m[5]]
		}
		a, there := byName[name]
		if !there {
			return nil, false
		}
		if m[0] > at {
			out = append(out, Part{Text: template[at:m[0]]})
		}
		out = append(out, Part{Text: show(a, spec, byName), Name: name})
		at = m[1]
	}
	if at < len(template) {
		out = append(out, Part{Text: template[at:]})
	}
	return out, true
}

func show(a Argument, spec string, args map[string]Argument) string {
	format, with, _ := strings.Cut(spec, ":")
	if a.Redacted { // or the agent wrote the mark itself
		return quoted(a)
	}
	if c, named := args[with]; named {
		with = quoted(c)
	}
	switch format {
	case "money":
		return Short(money(a.Value, with))
	case "amount":
		return Short(amount(a.Value, with))
	case "count":
		return Short(count(a.Value))
	case "date":
		return Short(date(a.Value))
	}
	return quoted(a)
}

// plain are the characters, beside letters and digits, of values that need no
// quotes to be told from the sentence around them.
const plain = " .&'+-/@_:#"

// quoted shows a text so that it is seen where it ends: what could be taken for
// more of the sentence stands in quotation marks, which it cannot hold itself.
func quoted(a Argument) string {
	v := Short(a.Value)
	if !a.text || v != "" && len(v) <= 64 && strings.TrimSpace(v) == v && a.Odd == "" && !strings.ContainsFunc(v, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r) && !strings.ContainsRune(plain, r)
	}) {
		return v
	}
	return "“" + strings.NewReplacer("“", "'", "”", "'", "„", "'").Replace(v) + "”"
}

// Join puts a sentence together.
func Join(parts []Part) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.Text)
	}
	return b.String()
}

// Plain says a call for which there is no template, by its first arguments.
func Plain(agent, connection, tool string, args []Argument) []Part {
	const most = 6
	out := []Part{{Text: inert.Text(agent) + " wants to call " + inert.Text(connection) + "/" + inert.Text(tool)}}
	for i, a := range args[:min(len(args), most)] {
		sep := ", "
		if i == 0 {
			sep = " with "
		}
		out = append(out, Part{Text: sep + Short(a.Name) + "="}, Part{Text: quoted(a), Name: a.Name})
	}
	if len(args) > most {
		out = append(out, Part{Text: fmt.Sprintf(" and %d more arguments", len(args)-most)})
	}
	return out
}
