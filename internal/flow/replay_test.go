package flow_test

import (
	"bufio"
	"compress/gzip"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"os"
	"regexp"
	"testing"

	"github.com/countersign/countersign/internal/flow"
)

type tool struct {
	Name       string `json:"name"`
	Annotation struct {
		Effect string            `json:"effect"`
		Source string            `json:"source"`
		Roles  map[string]string `json:"roles"`
	} `json:"annotation"`
}
type step struct {
	Origin   string         `json:"origin"`
	Index    int            `json:"index"`
	Function string         `json:"function"`
	Args     jsontext.Value `json:"args"`
	Result   string         `json:"result"`
}

var irrev = regexp.MustCompile(`^(delete|remove|cancel)`)

func spec(t tool) flow.Spec {
	s := flow.Spec{Source: t.Annotation.Source, Args: map[string]string{}}
	for k, r := range t.Annotation.Roles {
		switch r {
		case "recipient", "object", "amount", "secret":
			s.Args[k] = r
		}
	}
	return s
}
func held(m *flow.Memory, t tool, s step) bool {
	if t.Annotation.Effect == "read" {
		return false
	}
	j := m.Judge(spec(t), t.Name, s.Args)
	ir := irrev.MatchString(t.Name)
	for _, v := range j.Values {
		ir = ir || v.Role == "secret"
	}
	return j.Untrusted && (j.External || ir) && (len(j.Unendorsed()) > 0 || !j.Asked)
}
func after(m *flow.Memory, t tool, s step) {
	if t.Annotation.Effect == "read" {
		m.Reads(spec(t))
	}
	m.Result(spec(t), t.Name, s.Function, t.Annotation.Effect != "read", []byte(s.Result))
}
func load(t *testing.T, f string, v any) {
	b, err := os.ReadFile("/work/shared/containment/agentdojo/" + f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}
func TestReplay(t *testing.T) {
	raw := map[string]jsontext.Value{}
	load(t, "tools.json", &raw)
	tools := map[string]map[string]tool{}
	for s, b := range raw {
		tools[s] = map[string]tool{}
		var l []tool
		if json.Unmarshal(b, &l) != nil {
			var mm map[string]tool
			if err := json.Unmarshal(b, &mm); err != nil {
				t.Fatal(err)
			}
			for _, x := range mm {
				l = append(l, x)
			}
		}
		for _, x := range l {
			tools[s][x.Name] = x
		}
	}
	var tasks map[string][]struct {
		ID     string `json:"id"`
		Prompt string `json:"prompt"`
		Steps  []step `json:"steps"`
	}
	load(t, "user_tasks.json", &tasks)
	asks, n := 0, 0
	for s, l := range tasks {
		for _, k := range l {
			var m flow.Memory
			m.Words(flow.User, k.Prompt)
			ask := false
			for _, st := range k.Steps {
				if held(&m, tools[s][st.Function], st) {
					ask = true
					t.Logf("HELD %s %s %s %s %+v", s, k.ID, st.Function, st.Args, m.Judge(spec(tools[s][st.Function]), st.Function, st.Args))
				}
				after(&m, tools[s][st.Function], st)
			}
			n++
			if ask {
				asks++
			}
		}
	}
	t.Logf("asks %d of %d", asks, n)
	f, _ := os.Open("/work/shared/containment/agentdojo/pairs.jsonl.gz")
	z, _ := gzip.NewReader(f)
	sc := bufio.NewScanner(z)
	sc.Buffer(nil, 16<<20)
	took, all, let := 0, 0, 0
	for sc.Scan() {
		var p struct {
			Suite, Prompt string
			UT            string `json:"user_task"`
			IT            string `json:"injection_task"`
			Steps         []step
			Necessary     []int `json:"necessary_injected_calls"`
		}
		if err := json.Unmarshal(sc.Bytes(), &p, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatal(err)
		}
		var m flow.Memory
		m.Words(flow.User, p.Prompt)
		ok := map[int]bool{}
		for _, st := range p.Steps {
			tl := tools[p.Suite][st.Function]
			h := held(&m, tl, st)
			if st.Origin == "injected" {
				ok[st.Index] = !h
				if h {
					continue
				}
				if tl.Annotation.Effect != "read" {
					let++
				}
			}
			after(&m, tl, st)
		}
		all++
		hit := len(p.Necessary) > 0
		for _, i := range p.Necessary {
			hit = hit && ok[i]
		}
		if hit {
			took++
			t.Log("TOOK", p.Suite, p.UT, p.IT)
		}
	}
	t.Logf("took %d of %d, injected effects let %d", took, all, let)
}
