package approvals

import (
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/inert"
)

// summary says in plain words what a call is about: by the tool's own template,
// or by its name and first arguments.
func (s *Service) summary(r *Request, sh shown) string {
	args := map[string]string{}
	var order []string
	if sh.body != nil {
		list, _ := flatten(sh.body)
		for _, a := range list {
			args[a.Name] = a.Value
			order = append(order, a.Name)
		}
	}
	if s.o.Template != nil {
		if t := s.o.Template(r.Binding.Connection, r.Binding.Tool); t != "" {
			if out, ok := Render(t, Inert(r.Binding.Agent), args); ok {
				return out
			}
		}
	}
	var parts []string
	for _, name := range order[:min(len(order), 6)] {
		parts = append(parts, name+"="+short(args[name]))
	}
	text := fmt.Sprintf("%s wants to call %s/%s", Inert(r.Binding.Agent), Inert(r.Binding.Connection), Inert(r.Binding.Tool))
	if len(parts) > 0 {
		text += " with " + strings.Join(parts, ", ")
	}
	if len(order) > 6 {
		text += fmt.Sprintf(" and %d more arguments", len(order)-6)
	}
	return text
}

var hole = regexp.MustCompile(`\{([^{}|]*)(?:\|([^{}]*))?\}`)

// CheckTemplate says what is wrong with a template, "" if nothing is.
func CheckTemplate(t string) string {
	switch {
	case len(t) > 500 || !utf8.ValidString(t) || strings.ContainsFunc(t, unicode.IsControl):
		return "must be one line of at most 500 bytes"
	case strings.ContainsAny(hole.ReplaceAllString(t, ""), "{}"):
		return "has a brace that is not part of {argument} or {argument|format}"
	}
	for _, m := range hole.FindAllStringSubmatch(t, -1) {
		format, _, _ := strings.Cut(m[2], ":")
		if m[1] == "" || !slices.Contains([]string{"", "money", "count"}, format) {
			return fmt.Sprintf("%s: write {argument}, {argument|money:EUR}, {argument|money:currency_argument} or {argument|count}", m[0])
		}
	}
	return ""
}

// Render fills a template such as "{agent} wants to pay
// {amount_cents|money:EUR} to {creditor}". Values are inert already. False if an argument that it
// names is not there: a sentence with a hole says less than the arguments.
func Render(template, agent string, args map[string]string) (string, bool) {
	ok := true
	out := hole.ReplaceAllStringFunc(template, func(h string) string {
		m := hole.FindStringSubmatch(h)
		value, there := args[m[1]]
		if m[1] == "agent" && !there {
			value, there = agent, true
		}
		if !there {
			ok = false
			return ""
		}
		format, with, _ := strings.Cut(m[2], ":")
		switch format {
		case "money":
			if code, named := args[with]; named {
				with = code
			}
			value = money(value, with)
		case "count":
			value = grouped(value)
		}
		return short(value)
	})
	return out, ok
}

// money shows whole cents as an amount: 1240000 is 12,400.00. What is no whole
// number is shown as it is.
func money(cents, currency string) string {
	n, ok := new(big.Int).SetString(cents, 10)
	if !ok {
		return cents + " (not a whole number of cents) " + currency
	}
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
	}
	digits := new(big.Int).Abs(n).String()
	for len(digits) < 3 {
		digits = "0" + digits
	}
	return strings.TrimSpace(sign + grouped(digits[:len(digits)-2]) + "." + digits[len(digits)-2:] + " " + currency)
}

func grouped(digits string) string {
	if strings.Trim(digits, "0123456789") != "" {
		return digits
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Inert shows foreign text so that it cannot change how anything around it is
// shown; see inert.Text.
func Inert(s string) string { return inert.Text(s) }

// odd says what is unusual about the characters of a text: what a person who
// reads it would not see.
func odd(s string) string {
	var notes []string
	if strings.ContainsFunc(s, inert.Hidden) {
		notes = append(notes, "has characters that are not seen as themselves")
	}
	if scripts := mixed(s); scripts != "" {
		notes = append(notes, "mixes "+scripts+" letters in one word")
	}
	return strings.Join(notes, "; ")
}

// mixed names the scripts of the first word that is written in more than one of
// those whose letters look alike.
func mixed(s string) string {
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsMark(r) }) {
		var found []string
		for name, table := range map[string]*unicode.RangeTable{"Latin": unicode.Latin, "Greek": unicode.Greek, "Cyrillic": unicode.Cyrillic, "Armenian": unicode.Armenian, "Cherokee": unicode.Cherokee} {
			if strings.ContainsFunc(word, func(r rune) bool { return unicode.Is(table, r) }) {
				found = append(found, name)
			}
		}
		if len(found) > 1 {
			slices.Sort(found)
			return strings.Join(found, " and ")
		}
	}
	return ""
}
