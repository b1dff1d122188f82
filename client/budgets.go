package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// BudgetSpec is a limit on what calls may use. Meter is calls, effects, tokens
// or money (in millionths). Agent, Team and Tool (CONNECTION/TOOL) say which
// calls; all if empty. Each (agent, run) gives every one its own. Period is
// hour, day, month or total.
type BudgetSpec struct {
	Meter  string `json:"meter"`
	Agent  string `json:"agent,omitempty"`
	Team   string `json:"team,omitempty"`
	Tool   string `json:"tool,omitempty"`
	Each   string `json:"each,omitempty"`
	Period string `json:"period"`
	Zone   string `json:"zone,omitempty"`
	Hard   int64  `json:"hard,omitempty"`
	Soft   int64  `json:"soft,omitempty"`
}

// Budget is one that was set.
type Budget struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	BudgetSpec
	Reason  string    `json:"reason,omitempty"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// BudgetWindow is what was used of a budget in one period.
type BudgetWindow struct {
	ID       string    `json:"id"`
	Part     string    `json:"part,omitempty"` // the agent or the run, where each has its own
	Start    time.Time `json:"start,omitzero"`
	Ends     time.Time `json:"ends,omitzero"`
	Spent    int64     `json:"spent"`
	Reserved int64     `json:"reserved"` // by calls under way
	Left     int64     `json:"left,omitempty"`
}

// BudgetUsage is a budget and what was used of it.
type BudgetUsage struct {
	Budget
	Currency string         `json:"currency,omitempty"`
	Windows  []BudgetWindow `json:"windows"`
}

// Price is what a model costs for a million tokens.
type Price struct {
	Model     string  `json:"model"`
	Input     float64 `json:"input"`
	Cached    float64 `json:"cached"`
	Output    float64 `json:"output"`
	MaxOutput int64   `json:"max_output,omitempty"`
	Dated     string  `json:"dated"`
	Source    string  `json:"source"`
	By        string  `json:"by,omitempty"`
}

// PriceTable is what models cost.
type PriceTable struct {
	Dated    string  `json:"dated"`
	Source   string  `json:"source"`
	Currency string  `json:"currency"`
	Models   []Price `json:"models"`
}

// PriceSpec is a price to set. Cached is Input if it is 0.
type PriceSpec struct {
	Input     float64 `json:"input"`
	Cached    float64 `json:"cached,omitempty"`
	Output    float64 `json:"output"`
	MaxOutput int64   `json:"max_output,omitempty"`
	Source    string  `json:"source,omitempty"`
}

// Budgets lists budgets, by name.
func (c *Client) Budgets(ctx context.Context) ([]Budget, error) {
	return get[[]Budget](ctx, c, v1+"/budgets", nil)
}

// Budget returns one budget.
func (c *Client) Budget(ctx context.Context, name string) (Budget, error) {
	return get[Budget](ctx, c, v1+"/budgets"+segment(name), nil)
}

// BudgetUsage returns what was used of a budget, in at most limit windows.
func (c *Client) BudgetUsage(ctx context.Context, name string, limit int) (BudgetUsage, error) {
	return get[BudgetUsage](ctx, c, v1+"/budgets"+segment(name)+"/usage", url.Values{"limit": {strconv.Itoa(limit)}})
}

// PutBudget sets a budget.
func (c *Client) PutBudget(ctx context.Context, name string, spec BudgetSpec) (Budget, error) {
	return send[Budget](ctx, c, http.MethodPut, v1+"/budgets"+segment(name), spec)
}

// DeleteBudget removes a budget.
func (c *Client) DeleteBudget(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, v1+"/budgets"+segment(name), nil, nil, nil)
}

// Prices lists what models cost.
func (c *Client) Prices(ctx context.Context) (PriceTable, error) {
	return get[PriceTable](ctx, c, v1+"/prices", nil)
}

// PutPrice sets what a model costs.
func (c *Client) PutPrice(ctx context.Context, model string, spec PriceSpec) (Price, error) {
	return send[Price](ctx, c, http.MethodPut, v1+"/prices"+segment(model), spec)
}

// DeletePrice removes a price that was set.
func (c *Client) DeletePrice(ctx context.Context, model string) error {
	return c.do(ctx, http.MethodDelete, v1+"/prices"+segment(model), nil, nil, nil)
}
