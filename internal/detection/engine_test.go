package detection

import "testing"

// TestRulesDoWhatTheySay runs the test cases in the built-in rules' own files.
func TestRulesDoWhatTheySay(t *testing.T) {
	specs, err := builtin()
	if err != nil {
		t.Fatal(err)
	}
	if len(specs) < 15 {
		t.Fatalf("%d rules", len(specs))
	}
	for _, s := range specs {
		t.Run(s.ID, func(t *testing.T) {
			if len(s.Tests) == 0 {
				t.Error("the rule tests nothing")
			}
			r, err := compileRule(s)
			if err != nil {
				t.Fatal(err)
			}
			for _, try := range tryRule(r) {
				if !try.Passed {
					t.Errorf("%s: %s", try.Case, try.Problem)
				}
			}
		})
	}
}

// TestTheMonth runs a simulated month with few calls: attacks are caught, honest
// people are left alone. make detection-bench runs it with many.
func TestTheMonth(t *testing.T) {
	rules, err := enforcing()
	if err != nil {
		t.Fatal(err)
	}
	m := newMonth(50, 0.2)
	m.work()
	m.controls()
	attacks := m.attacks()
	v := m.run(rules, attacks)
	for _, c := range v.caught {
		if c.want != (c.rule != "") {
			t.Errorf("%s: caught by %q", c.name, c.rule)
		}
		t.Logf("%-45s %-20s after %v and %d calls", c.name, c.rule, c.after, c.before)
	}
	n := 0
	for rule, k := range v.findings {
		n += k
		t.Logf("false: %s %d %v", rule, k, v.honest[rule])
	}
	t.Logf("%d events in %v; %d hints", v.events, v.took, v.hints)
	if rate := float64(n) / v.weeks; rate >= 0.1 {
		t.Errorf("%.3f false findings per agent and week", rate)
	}
}
