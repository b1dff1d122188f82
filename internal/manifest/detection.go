package manifest

import "github.com/countersign/countersign/internal/detection"

// DetectionSpec is a rule by which detection watches the log, as the built-in
// ones are written (docs/detection.md).
type DetectionSpec struct {
	Version   string            `yaml:"version" need:"true"`
	Title     string            `yaml:"title" need:"true"`
	Watch     []string          `yaml:"watch" need:"true"`
	Key       string            `yaml:"key" need:"true"`
	Where     string            `yaml:"where,omitempty"`
	Measures  map[string]string `yaml:"measures,omitempty"`
	When      string            `yaml:"when" need:"true"`
	Limits    map[string]string `yaml:"limits,omitempty"`
	Learning  string            `yaml:"learning,omitempty"`
	Quiet     string            `yaml:"quiet,omitempty"`
	Severity  string            `yaml:"severity" need:"true"`
	Weight    string            `yaml:"weight,omitempty"`
	Response  string            `yaml:"response,omitempty"`
	For       string            `yaml:"for,omitempty"`
	Approvers string            `yaml:"approvers,omitempty"`
	Rate      string            `yaml:"rate,omitempty"`
	Seen      string            `yaml:"seen" need:"true"`
	Normal    string            `yaml:"normal,omitempty"`
	Tests     map[string]string `yaml:"tests,omitempty"`
}

func (s *DetectionSpec) rule(name string) detection.Spec {
	return detection.Spec{ID: name, Version: s.Version, Title: s.Title, Watch: s.Watch, Key: s.Key, Where: s.Where, Measures: s.Measures, When: s.When, Limits: s.Limits, Learning: s.Learning,
		Quiet: s.Quiet, Severity: s.Severity, Weight: s.Weight, Response: s.Response, For: s.For, Approvers: s.Approvers, Rate: s.Rate, Seen: s.Seen, Normal: s.Normal, Tests: s.Tests}
}

func detectionSpec(r detection.Spec) *DetectionSpec {
	return &DetectionSpec{Version: r.Version, Title: r.Title, Watch: r.Watch, Key: r.Key, Where: r.Where, Measures: r.Measures, When: r.When, Limits: r.Limits, Learning: r.Learning,
		Quiet: r.Quiet, Severity: r.Severity, Weight: r.Weight, Response: r.Response, For: r.For, Approvers: r.Approvers, Rate: r.Rate, Seen: r.Seen, Normal: r.Normal, Tests: r.Tests}
}
