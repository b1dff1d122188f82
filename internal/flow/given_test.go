package flow_test

import (
	"encoding/json/jsontext"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/flow"
)

// A scope endorses a call that it covers whole, and nothing of any other.
func TestAScopeEndorsesWhatItCoversWhole(t *testing.T) {
	m := told("What is new?")
	scope := flow.Scope{Tool: "bank/pay", Args: map[string][]string{"to": {"*@example.com", "DE89 3704"}, "amount": {"100"}}}
	for args, want := range map[string]string{
		`{"to":"ann@example.com","amount":100}`:                                   "",
		`{"to":"ANN@Example.com","amount":99.5}`:                                  "",
		`{"to":["ann@example.com","de89  3704"],"amount":1}`:                      "",
		`{"to":"ann@example.com","amount":101}`:                                   "to,amount",
		`{"to":"ann@example.com"}`:                                                "to", // the amount that it names is not there
		`{"to":["ann@example.com","eve@evil.test"],"amount":1}`:                   "to,amount",
		`{"to":"ann@example.com","amount":1,"file":"f-1"}`:                        "file", // not in it
		`{"to":"@example.com","amount":1}`:                                        "to,amount",
		`{"to":"eve@evil.test,ann@example.com","amount":1}`:                       "to,amount",
		`{"to":"eve@evil.test ann@example.com","amount":1}`:                       "to,amount",
		`{"to":"eve@evil.test@example.com","amount":1}`:                           "to,amount",
		`{"to":"ann@example.com.evil.test","amount":1}`:                           "to,amount",
		`{"to":"","amount":1}`:                                                    "to,amount",
		`{"to":"ann@example.com","amount":"everything"}`:                          "to,amount",
		`{"to":"ann@example.com","amount":-5}`:                                    "to,amount",
		`{"to":` + strings.Repeat(`["ann@example.com",`, 1) + `null],"amount":1}`: "",
	} {
		j := m.Judge(send, "pay", jsontext.Value(args)).With(send, flow.Given{Scopes: []flow.Scope{scope}})
		if got := strings.Join(j.Unendorsed(), ","); got != want || j.Asked != !strings.Contains(want, "to") {
			t.Errorf("%s: unendorsed %q, asked %v, want %q", args, got, j.Asked, want)
		}
	}
	many := `{"to":["` + strings.Repeat(`ann@example.com","`, 300) + `ann@example.com"],"amount":1}`
	if j := m.Judge(send, "pay", jsontext.Value(many)).With(send, flow.Given{Scopes: []flow.Scope{scope}}); len(j.Unendorsed()) == 0 {
		t.Error("more values than are judged were endorsed")
	}
	if j := m.Judge(send, "pay", jsontext.Value(`not JSON`)).With(send, flow.Given{Scopes: []flow.Scope{{Tool: "bank/pay", Args: map[string][]string{"arguments": {"x*"}}}}}); len(j.Unendorsed()) == 0 {
		t.Error("what cannot be read was endorsed")
	}
}

func TestWhatAPatternFits(t *testing.T) {
	for _, x := range []struct {
		pattern, value string
		fits           bool
	}{
		{"docs/*", "docs/a/b.txt", true}, {"docs/*", "docs/../secret", false}, {"docs/*", "docs/", false}, {"a*c*e", "abcde", true}, {"a*c*e", "ace", false},
		{"a*b", "a*b", true}, {"*.example.com", "www.example.com", true}, {"*x", "x", false}, {"x*", "x", false}, {"run-*", "Run-7", true}, {"a*a", "a", false},
	} {
		spec := flow.Spec{Args: map[string]string{"to": flow.Recipient}}
		args, _ := jsontext.AppendQuote(nil, x.value)
		j := told("x").Judge(spec, "t", jsontext.Value(`{"to":`+string(args)+`}`)).With(spec, flow.Given{Scopes: []flow.Scope{{Tool: "c/t", Args: map[string][]string{"to": {x.pattern}}}}})
		if got := len(j.Unendorsed()) == 0; got != x.fits {
			t.Errorf("%s for %s: %v", x.value, x.pattern, got)
		}
	}
}

func TestAScopeIsChecked(t *testing.T) {
	roles := map[string]string{"to": flow.Recipient, "amount": flow.Amount, "password": flow.Secret, "text": flow.Content}
	for args, wrong := range map[string]bool{
		"to=ann@example.com": false, "to=*@example.com": false, "amount=100": false, "to=*": true, "to=a**b": true, "amount=much": true, "text=hello": true, "password=x": true, "nobody=x": true, "to=": true,
	} {
		name, value, _ := strings.Cut(args, "=")
		if got := flow.CheckScope(flow.Scope{Tool: "bank/pay", Args: map[string][]string{name: {value}}}, roles); (got != "") != wrong {
			t.Errorf("%s: %q", args, got)
		}
	}
}

// A counterparty endorses itself as that one argument, and nothing else.
func TestACounterpartyEndorsesItself(t *testing.T) {
	spec := flow.Spec{Args: map[string]string{"to": flow.Recipient, "cc": flow.Recipient}, Counterparty: "to"}
	given := flow.Given{Met: func(v string) bool { return v == "ann@example.com" }}
	for args, want := range map[string]string{
		`{"to":"ann@example.com"}`:                        "",
		`{"to":"eve@evil.test"}`:                          "to",
		`{"to":["ann@example.com","eve@evil.test"]}`:      "to",
		`{"to":"ann@example.com","cc":"ann@example.com"}`: "cc",
	} {
		j := told("x").Judge(spec, "pay", jsontext.Value(args)).With(spec, given)
		if got := strings.Join(j.Unendorsed(), ","); got != want || j.Asked {
			t.Errorf("%s: unendorsed %q, asked %v", args, got, j.Asked)
		}
	}
}

// What is confidential is cleared for its readers and for whom the user named.
func TestConfidentialContentIsForItsReaders(t *testing.T) {
	names := func(r string) []string {
		return map[string][]string{"ann@example.com": {"user:ann", "group:board"}, "ben@example.com": {"user:ben"}}[r]
	}
	read := func(m *flow.Memory, readers ...[]string) *flow.Memory {
		for _, r := range readers {
			m.Confidential(r)
		}
		return m
	}
	many := make([][]string, 100)
	for i := range many {
		many[i] = []string{fmt.Sprint("user:u", i), "group:board"}
	}
	for name, x := range map[string]struct {
		m    *flow.Memory
		to   string
		want bool
	}{
		"nothing read":            {told("x"), "eve@evil.test", true},
		"a reader":                {read(told("x"), []string{"user:ann"}), "ann@example.com", true},
		"by a group":              {read(told("x"), []string{"group:board"}), "ann@example.com", true},
		"by an address":           {read(told("x"), []string{"Eve@evil.test"}), "eve@evil.test", true},
		"no reader":               {read(told("x"), []string{"user:ann"}), "ben@example.com", false},
		"a stranger":              {read(told("x"), []string{"everyone"}), "eve@evil.test", false},
		"of one thing alone":      {read(told("x"), []string{"user:ann"}, []string{"user:ben"}), "ann@example.com", false},
		"whom the user named":     {read(told("send it to eve@evil.test"), []string{"user:ann"}), "eve@evil.test", true},
		"nobody may":              {read(told("x"), []string{}), "ann@example.com", false},
		"more than is remembered": {read(told("x"), many...), "ann@example.com", false},
	} {
		j := x.m.Judge(send, "send_mail", jsontext.Value(`{"to":"`+x.to+`"}`))
		if got := j.Cleared(names); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
