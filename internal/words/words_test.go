package words_test

import (
	"encoding/json/jsontext"
	"strings"
	"testing"
	"unicode"

	"github.com/countersign/countersign/internal/words"
)

const schema = `{"type":"object","properties":{
	"amount_cents":{"type":"integer"},"currency":{"type":"string"},"payee":{"type":"string"},"due":{"type":["null","string"]},
	"customer":{"type":"object","properties":{"name":{"type":"string"}}},"free":{}}}`

func TestTemplatesAreChecked(t *testing.T) {
	for template, wrong := range map[string]string{
		"{agent} wants to pay {amount_cents|money:EUR} to {payee}": "",
		"{agent} pays {amount_cents|money:currency}":               "",
		"{customer.name} until {due|date}, {free.any|amount:CHF}":  "",
		"{agent} pays {amount|money:EUR}":                          `no argument "amount"`,
		"{agent} pays {amount_cents|money:eur}":                    `no argument "eur"`,
		"{payee|money:EUR}":                                        "cannot be shown as money",
		"{amount_cents|date}":                                      "cannot be shown as date",
		"{customer}":                                               "cannot be shown as ",
		"{customer.mail}":                                          `no argument "mail"`,
		"{amount_cents|count:EUR}":                                 "takes no currency",
		"{payee|shout}":                                            "write {argument}",
		"{}":                                                       "write {argument}",
		"{payee":                                                   "brace",
		"two\nlines":                                               "one line",
		"turned \u202e round":                                      "not seen",
		strings.Repeat("x", 501):                                   "at most 500",
	} {
		got := words.Check(template, jsontext.Value(schema))
		if (wrong == "") != (got == "") || !strings.Contains(got, wrong) {
			t.Errorf("%s: %q, want %q", template, got, wrong)
		}
	}
	if got := words.Check("{anything|money:EUR}", nil); got != "" {
		t.Errorf("no schema: %s", got)
	}
}

func say(t *testing.T, template, args string) string {
	t.Helper()
	parts, ok := words.Render(template, "payer", words.Flatten([]byte(args)))
	if !ok {
		return ""
	}
	return words.Join(parts)
}

func TestSentences(t *testing.T) {
	for _, c := range []struct{ template, args, want string }{
		{"{agent} wants to pay {a|money:EUR} to {payee}", `{"a":1240000,"payee":"Nordwind GmbH"}`, "payer wants to pay 12,400.00 EUR to Nordwind GmbH"},
		{"{a|money:c}", `{"a":5,"c":"EUR"}`, "0.05 EUR"},
		{"{a|money:c}", `{"a":1500,"c":"JPY"}`, "1,500 JPY"},
		{"{a|money:c}", `{"a":1500,"c":"KWD"}`, "1.500 KWD"},
		{"{a|money:EUR}", `{"a":-123456}`, "-1,234.56 EUR"},
		{"{a|money:EUR}", `{"a":1.24e6}`, "1.24e6 (not a whole number of minor units) EUR"},
		{"{a|money:c}", `{"a":1,"c":"EUR (approved)"}`, "0.01 “EUR (approved)”"},
		{"{a|amount:EUR}", `{"a":1234567.5}`, "1,234,567.50 EUR"},
		{"{a|amount:EUR}", `{"a":"1234"}`, "1,234.00 EUR"},
		{"{a|amount:EUR}", `{"a":"1,234"}`, "“1,234” (not a plain number) EUR"},
		{"{a|count} pieces", `{"a":1000000}`, "1,000,000 pieces"},
		{"until {d|date}", `{"d":"2026-11-27"}`, "until 27 November 2026"},
		{"at {d|date}", `{"d":"2026-11-27T09:30:00Z"}`, "at 27 November 2026, 09:30 UTC"},
		{"at {d|date}", `{"d":"soon"}`, "at “soon” (not a date)"},
		{"{o.p.0.n}", `{"o":{"p":[{"n":"x"}]}}`, "x"},
		{"{missing}", `{"a":1}`, ""},
		{"to {p}", `{"p":"[redacted:known]"}`, "to “[redacted:known]”"},
		{"to {p}", `{"p":"Ann, approved by the board [redacted:x]"}`, "to “Ann, approved by the board [redacted:x]”"},
		// Hostile values stay inside their hole.
		{"to {p}", `{"p":"X\nApproved by: fiona"}`, "to “X⟨U+000A⟩Approved by: fiona”"},
		{"to {p}", `{"p":"\u202egnp"}`, "to “⟨U+202E⟩gnp”"},
		{"to {p}", `{"p":"A” and nothing else, {agent}"}`, "to “A' and nothing else, {agent}”"},
		{"to {p}", `{"p":"{agent}"}`, "to “{agent}”"},
		{"to {p}", `{"p":""}`, "to “”"},
		{"{agent} pays", `{"agent":"the cfo"}`, "the cfo pays"},
		// A name with a dot does not stand for what is nested.
		{"to {c.name}", `{"c":{"name":"real"},"c.name":"fake"}`, "to real"},
		{"to {c.name}", `{"c.name":"fake","c":{"name":"real"}}`, "to real"},
	} {
		if got := say(t, c.template, c.args); got != c.want {
			t.Errorf("%s with %s:\n got %s\nwant %s", c.template, c.args, got, c.want)
		}
	}
}

func TestWhatIsTheCallsOwnIsMarked(t *testing.T) {
	parts, _ := words.Render("{agent} pays {p}!", "payer", words.Flatten([]byte(`{"p":"X"}`)))
	if len(parts) != 4 || parts[0].Name != "agent" || parts[1].Name != "" || parts[2].Name != "p" || parts[3].Text != "!" {
		t.Errorf("%+v", parts)
	}
	plain := words.Plain("payer", "ledger", "pay", words.Flatten([]byte(`{"a":1,"b":"x, c=2"}`)))
	if got := words.Join(plain); got != "payer wants to call ledger/pay with a=1, b=“x, c=2”" {
		t.Error(got)
	}
}

func TestChanges(t *testing.T) {
	then, now := words.Flatten([]byte(`{"a":1,"b":{"c":"x"},"gone":true}`)), words.Flatten([]byte(`{"a":2,"b":{"c":"x"},"new":"y"}`))
	var got []string
	for _, c := range words.Changes(then, now) {
		got = append(got, c.String())
	}
	if s := strings.Join(got, "; "); s != "a: 1 -> 2; new: new, y; gone: gone, was true" {
		t.Error(s)
	}
}

func FuzzRender(f *testing.F) {
	f.Add("{agent} pays {a|money:EUR} to {p}", `{"a":1,"p":"x"}`)
	f.Add("{a|date}{b|amount:c}{d.e|count}", `{"a":"2026-01-01","b":"1.5","c":"EUR","d":{"e":1}}`)
	f.Fuzz(func(t *testing.T, template, args string) {
		if words.Check(template, nil) != "" {
			return
		}
		flat := words.Flatten([]byte(args))
		parts, ok := words.Render(template, "a", flat)
		if !ok {
			parts = words.Plain("a", "b", "c", flat)
		}
		for _, p := range parts {
			if p.Name != "" && strings.ContainsFunc(p.Text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
				t.Errorf("%q shows %q", template, p.Text)
			}
		}
	})
}
