package console

import (
	"cmp"
	"fmt"
	"math/big"
	"strings"

	"github.com/countersign/countersign/client"
)

var budgetPages = []page{
	{"/budgets", "budgets", "Budgets", "budgets", (*Console).showBudgets},
	{"/budgets/{name}", "budget", "Budget", "budgets", (*Console).showBudget},
}

var budgetActions = []action{
	{"/budgets", "budgets", (*Console).setBudget},
	{"/budgets/{name}", "budget", (*Console).changeBudget},
	{"/budgets/{name}/delete", "budget", (*Console).deleteBudget},
}

var budgetColumns = []column[client.Budget]{
	{Key: "name", Title: "Budget", Value: func(b client.Budget) string { return b.Name }},
	{Key: "for", Title: "For", Value: budgetFor},
	{Key: "meter", Title: "Counts", Value: func(b client.Budget) string { return b.Meter }},
	{Key: "period", Title: "Per", Value: func(b client.Budget) string { return b.Period }},
	{Key: "hard", Title: "Refused over", Value: func(b client.Budget) string { return amountOf(b.Meter, b.Hard) }, Less: func(a, b client.Budget) int { return cmp.Compare(a.Hard, b.Hard) }, Number: true},
	{Key: "soft", Title: "Told from", Value: func(b client.Budget) string { return amountOf(b.Meter, b.Soft) }, Less: func(a, b client.Budget) int { return cmp.Compare(a.Soft, b.Soft) }, Number: true},
	{Key: "by", Title: "Set by", Value: func(b client.Budget) string { return b.By }},
}

// budgetFor says which calls a budget is for.
func budgetFor(b client.Budget) string {
	var parts []string
	for _, p := range []struct{ kind, name string }{{"agent ", b.Agent}, {"team ", b.Team}, {"", b.Tool}} {
		if p.name != "" {
			parts = append(parts, p.kind+p.name)
		}
	}
	if len(parts) == 0 {
		parts = []string{"all calls"}
	}
	if b.Each != "" {
		parts = append(parts, "each "+b.Each+" its own")
	}
	return strings.Join(parts, ", ")
}

const millionth = 1_000_000 // of the currency, in which money is counted

// amountOf is so much of what a meter counts; empty for no limit.
func amountOf(meter string, n int64) string {
	switch {
	case n == 0:
		return ""
	case meter == "money":
		return strings.TrimSuffix(strings.TrimRight(big.NewRat(n, millionth).FloatString(6), "0"), ".")
	}
	return fmt.Sprint(n)
}

// usedOf is amountOf for what was used, of which nothing is 0.
func usedOf(meter string, n int64) string { return cmp.Or(amountOf(meter, n), "0") }

// amountFrom reads what amountOf writes.
func amountFrom(meter, field, text string) (int64, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, nil
	}
	r, ok := new(big.Rat).SetString(text)
	if ok && meter == "money" {
		r.Mul(r, big.NewRat(millionth, 1))
	}
	if !ok || strings.Trim(text, "0123456789.") != "" || !r.IsInt() || !r.Num().IsInt64() {
		return 0, &client.Error{Status: 422, Detail: fmt.Sprintf("%s: %q is no amount of %s; write a number such as 200, of money also 250.00.", field, text, meter)}
	}
	return r.Num().Int64(), nil
}

// fullness is how much of a limit is used, where most is.
type fullness struct {
	Known   bool // there is a hard limit, and something was counted
	Percent int64
	Part    string // the agent or the run, where each has its own
}

type budgetsPage struct {
	*listing[client.Budget]
	Full   map[string]fullness // of the budgets shown
	Agents []client.Agent
	Teams  []client.Team
}

// mostWindows is how many windows of a budget are looked at.
const mostWindows = 50

func (c *Console) showBudgets(v *visit) (any, error) {
	all, err := v.API.Budgets(v.ctx())
	if err != nil {
		return nil, err
	}
	d := budgetsPage{listing: arrange(v, all, func(b client.Budget) string { return b.Name }, budgetColumns), Full: map[string]fullness{}}
	for _, b := range d.Rows {
		u, err := v.API.BudgetUsage(v.ctx(), b.Name, mostWindows)
		if err != nil {
			return nil, err
		}
		d.Full[b.Name] = fullest(u, v)
	}
	if !v.May("write") {
		return d, nil
	}
	if d.Agents, err = v.API.Agents(v.ctx()); err != nil {
		return nil, err
	}
	d.Teams, err = v.API.Teams(v.ctx())
	return d, err
}

// fullest looks at the windows that have not ended.
func fullest(u client.BudgetUsage, v *visit) fullness {
	var f fullness
	for _, w := range u.Windows {
		if u.Hard == 0 || !w.Ends.IsZero() && !w.Ends.After(v.Now()) {
			continue
		}
		if p := percent(w, u.Hard); !f.Known || p > f.Percent {
			f = fullness{true, p, w.Part}
		}
	}
	return f
}

// percent is how full a window is.
func percent(w client.BudgetWindow, hard int64) int64 {
	if hard <= 0 {
		return 0
	}
	used := new(big.Int).Mul(big.NewInt(w.Spent+w.Reserved), big.NewInt(100))
	return min(100, used.Div(used, big.NewInt(hard)).Int64())
}

type budgetPage struct {
	client.BudgetUsage
	For string
	Now fullness
}

// Percent is how full a window is.
func (d budgetPage) Percent(w client.BudgetWindow) int64 { return percent(w, d.Hard) }

func (c *Console) showBudget(v *visit) (any, error) {
	u, err := v.API.BudgetUsage(v.ctx(), v.Request.PathValue("name"), mostWindows)
	v.Title = "Budget " + u.Name
	return budgetPage{u, budgetFor(u.Budget), fullest(u, v)}, err
}

func (c *Console) setBudget(v *visit) (done, error) {
	f := v.Form
	return v.putBudget(f.Get("name"), client.BudgetSpec{Meter: f.Get("meter"), Agent: f.Get("agent"), Team: f.Get("team"), Tool: strings.TrimSpace(f.Get("tool")), Each: f.Get("each"), Period: f.Get("period"), Zone: strings.TrimSpace(f.Get("zone"))})
}

// changeBudget sets other limits: what was used stays used.
func (c *Console) changeBudget(v *visit) (done, error) {
	b, err := v.API.Budget(v.ctx(), v.Request.PathValue("name"))
	if err != nil {
		return done{}, err
	}
	return v.putBudget(b.Name, b.BudgetSpec)
}

// putBudget sets a budget with the limits of the form.
func (v *visit) putBudget(name string, spec client.BudgetSpec) (done, error) {
	var err error
	if spec.Hard, err = amountFrom(spec.Meter, "Refused over", v.Form.Get("hard")); err != nil {
		return done{}, err
	}
	if spec.Soft, err = amountFrom(spec.Meter, "Told from", v.Form.Get("soft")); err != nil {
		return done{}, err
	}
	b, err := v.reason().PutBudget(v.ctx(), name, spec)
	return done{to: string(pathOf("/budgets", b.Name)), said: b.Name + " is in force on every replica within a second."}, err
}

func (c *Console) deleteBudget(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	return done{to: "/budgets", said: name + " is deleted. What it limited is not limited by it any more."}, v.reason().DeleteBudget(v.ctx(), name)
}
