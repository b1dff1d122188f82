package budget

import (
	_ "embed"
	"encoding/json/v2"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

//go:embed prices.json
var listed []byte

// currency is that of the table, and so of every budget of money.
const currency = "USD"

// usualOutput is how many tokens the answer of a model may have that says nothing
// about it.
const usualOutput = 128_000

// mostPrice is the highest price, of a million tokens.
const mostPrice = 1000

// Price is what a model costs, in the currency of the table, for a million tokens.
type Price struct {
	Model     string  `json:"model"`
	Input     float64 `json:"input" doc:"for a million tokens of a request"`
	Cached    float64 `json:"cached" doc:"for a million of them that the provider had kept"`
	Output    float64 `json:"output" doc:"for a million tokens of an answer"`
	MaxOutput int64   `json:"max_output,omitempty" doc:"tokens that an answer has at most"`
	Dated     string  `json:"dated" doc:"the day on which the price was true"`
	Source    string  `json:"source" doc:"where it is from"`
	By        string  `json:"by,omitempty" doc:"who set it; one of the table that comes with Countersign if absent"`
}

func (p Price) normalize() (Price, error) {
	switch {
	case p.Model == "" || len(p.Model) > 128 || !utf8.ValidString(p.Model) || strings.ContainsFunc(p.Model, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return p, ErrPrice.Say("model must be the name of a model, of at most 128 bytes and without blanks")
	case len(p.Source) > 300 || !utf8.ValidString(p.Source) || strings.ContainsRune(p.Source, 0):
		return p, ErrPrice.Say("source must be at most 300 bytes of text")
	case p.MaxOutput < 0 || p.MaxOutput > mostAmount:
		return p, ErrPrice.Say("max_output must be a number of tokens")
	}
	for name, v := range map[string]float64{"input": p.Input, "cached": p.Cached, "output": p.Output} {
		if math.IsNaN(v) || v < 0 || v > mostPrice {
			return p, ErrPrice.Say("%s must be a price of 0 to %d for a million tokens", name, mostPrice)
		}
	}
	return p, nil
}

// Table is a list of prices.
type Table struct {
	Dated    string  `json:"dated"`
	Source   string  `json:"source"`
	Currency string  `json:"currency"`
	Models   []Price `json:"models"`
}

// Prices says what models cost. The zero value knows none.
type Prices struct {
	dated   string
	all     []Price
	by      map[string]Price
	dearest Price
}

// newPrices returns the table that comes with Countersign, with those in own
// instead of it where they name the same model.
func newPrices(own []Price) (*Prices, error) {
	var t struct {
		Currency string  `json:"currency"`
		Lists    []Table `json:"lists"` // each of one day and source
	}
	if err := json.Unmarshal(listed, &t); err != nil {
		return nil, err
	}
	if t.Currency != currency {
		return nil, ErrPrice.Say("the table of prices is in %s, not %s", t.Currency, currency)
	}
	p := &Prices{by: map[string]Price{}}
	for _, list := range t.Lists {
		p.dated = max(p.dated, list.Dated)
		for _, m := range list.Models {
			m.Dated, m.Source = list.Dated, list.Source
			p.by[m.Model] = m
		}
	}
	for _, m := range own {
		p.by[m.Model] = m
	}
	for _, m := range p.by {
		p.all = append(p.all, m)
		p.dearest.Input, p.dearest.Cached = max(p.dearest.Input, m.Input), max(p.dearest.Cached, m.Cached, m.Input)
		p.dearest.Output, p.dearest.MaxOutput = max(p.dearest.Output, m.Output), max(p.dearest.MaxOutput, m.MaxOutput, usualOutput)
	}
	slices.SortFunc(p.all, func(a, b Price) int { return strings.Compare(a.Model, b.Model) })
	return p, nil
}

// dateSuffix ends the name of a model as it was on a day, or as it is now.
var dateSuffix = regexp.MustCompile(`-(\d{4}-\d{2}-\d{2}|\d{8}|latest)$`)

// find returns the price of a model: under its own name, or without the date at
// its end. Anything looser would take one model for a cheaper one.
func (p *Prices) find(model string) (Price, bool) {
	if m, ok := p.by[model]; ok {
		return m, true
	}
	m, ok := p.by[dateSuffix.ReplaceAllString(model, "")]
	return m, ok
}

// Knows reports whether the table has a price of a model.
func (p *Prices) Knows(model string) bool { _, ok := p.find(model); return ok }

// MaxOutput returns how many tokens an answer of the model can have.
func (p *Prices) MaxOutput(model string) int64 {
	m, ok := p.find(model)
	switch {
	case !ok:
		return max(p.dearest.MaxOutput, usualOutput)
	case m.MaxOutput == 0 && m.Output > 0:
		return usualOutput
	}
	return m.MaxOutput
}

// Cost is what a call of a model cost.
type Cost struct {
	Amount   int64  // millionths of Currency, rounded up
	Currency string // such as USD
	Priced   string // the date of the price; "dearest" before it where the model has none and the dearest known counts
}

// Cost returns what tokens of a model cost; cached are those of input that the
// provider had kept. Amounts that make no sense count as none.
func (p *Prices) Cost(model string, input, cached, output int64) Cost {
	m, ok := p.find(model)
	c := Cost{Currency: currency, Priced: m.Dated}
	if !ok {
		m, c.Priced = p.dearest, "dearest "+p.dated
	}
	input, output = clamp(input), clamp(output)
	cached = min(clamp(cached), input)
	// A price per million is as many millionths per token. At most 3 * 10^15: no
	// overflow, and exact to far below a millionth.
	c.Amount = int64(math.Ceil(float64(input-cached)*m.Input + float64(cached)*m.Cached + float64(output)*m.Output - 1e-6))
	c.Amount = max(c.Amount, 0)
	return c
}
