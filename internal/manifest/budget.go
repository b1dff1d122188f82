package manifest

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/internal/budget"
)

// BudgetSpec is a limit on what calls use.
type BudgetSpec struct {
	Meter  string   `yaml:"meter" need:"true"`
	Agent  string   `yaml:"agent,omitempty"`
	Team   string   `yaml:"team,omitempty"`
	Tool   string   `yaml:"tool,omitempty"`
	Each   string   `yaml:"each,omitempty"`
	Period string   `yaml:"period" need:"true"`
	Zone   string   `yaml:"zone,omitempty"`
	Hard   Quantity `yaml:"hard,omitempty"`
	Soft   Quantity `yaml:"soft,omitempty"`
}

// Quantity is a number as it is written: of money, it may have decimals.
type Quantity string

// MarshalYAML implements yaml.Marshaler.
func (q Quantity) MarshalYAML() (any, error) {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: string(q)}, nil
}

// quantity reads a number.
func (r *reader) quantity(n *yaml.Node, field string) Quantity {
	if n.Kind != yaml.ScalarNode || !slices.Contains([]string{"!!int", "!!float", "!!str"}, n.Tag) {
		r.fail(n, field, "must be a number, not %s", what(n))
		return ""
	}
	return Quantity(n.Value)
}

func (s *BudgetSpec) budget(name string) (b budget.Budget, err error) {
	b = budget.Budget{Name: name, Meter: s.Meter, Agent: s.Agent, Team: s.Team, Tool: s.Tool, Each: s.Each, Period: s.Period, Zone: s.Zone}
	if b.Hard, err = budget.ParseAmount(s.Meter, string(s.Hard)); err != nil {
		return b, err
	}
	if b.Soft, err = budget.ParseAmount(s.Meter, string(s.Soft)); err != nil {
		return b, err
	}
	return b.Normalize()
}

func budgetSpec(b budget.Budget) *BudgetSpec {
	q := func(n int64) Quantity {
		if n == 0 {
			return ""
		}
		return Quantity(budget.Plain(b.Meter, n))
	}
	return &BudgetSpec{Meter: b.Meter, Agent: b.Agent, Team: b.Team, Tool: b.Tool, Each: b.Each, Period: b.Period, Zone: b.Zone, Hard: q(b.Hard), Soft: q(b.Soft)}
}
