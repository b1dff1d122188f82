package manifest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/manifest"
)

func TestParseNamesFileLineAndField(t *testing.T) {
	const agent = "kind: Agent\nname: a\nspec:\n  owner: sam\n  stage: production\n"
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", agent + "  onwer: x\n", "f.yaml:6:3: spec.onwer: unknown key; known are backup, business_process, labels, owner, purpose, stage, team; did you mean owner?"},
		{"unknown top key", "kind: Agent\nname: a\nspecs: {}\n", "f.yaml:3:1: specs: unknown key; a document has kind, name, spec and state; did you mean spec?"},
		{"unknown kind", "kind: Agnet\nname: a\nspec: {}\n", `f.yaml:1:7: kind: "Agnet" is not a kind`},
		{"no kind", "name: a\nspec: {}\n", "f.yaml:1:1: kind: is missing"},
		{"no name", "kind: Agent\nspec: {}\n", "f.yaml:1:1: name: is missing"},
		{"no spec", "kind: Agent\nname: a\n", "f.yaml:1:1: spec: is missing"},
		{"missing field", "kind: Agent\nname: a\nspec:\n  owner: sam\n", "f.yaml:4:3: spec.stage: is missing"},
		{"bad name", "kind: Agent\nname: Not Good\nspec: {}\n", `f.yaml:2:7: name: "Not Good" is not a valid agent name`},
		{"duplicate key", agent + "  owner: pat\n", "f.yaml:6:3: spec.owner: the key is already in line 4"},
		{"duplicate label", agent + "  labels: {a: b, a: c}\n", "f.yaml:6:18: spec.labels.a: the key is already in line 6"},
		{"number for string", "kind: User\nname: a\nspec:\n  role: 7\n", `f.yaml:4:9: spec.role: must be a string; write it as "7"`},
		{"boolean for string", agent + "  labels: {a: true}\n", `f.yaml:6:15: spec.labels.a: must be a string; write it as "true"`},
		{"string for boolean", "kind: User\nname: a\nspec:\n  role: admin\n  disabled: maybe\n", `f.yaml:5:13: spec.disabled: must be true or false, not "maybe"`},
		{"string for list", "kind: Team\nname: a\nspec:\n  members: sam\n", `f.yaml:4:12: spec.members: must be a list, not "sam"`},
		{"list for mapping", "kind: Team\nname: a\nspec: [a]\n", "f.yaml:3:7: spec: must be a mapping (key: value), not a list"},
		{"null", "kind: Team\nname: a\nspec:\n", "f.yaml:3:6: spec: must be a mapping (key: value), not nothing"},
		{"top is a list", "- a\n", "f.yaml:1:1: must be a mapping (key: value), not a list"},
		{"alias", "kind: Team\nname: a\nspec: &x\n  members: [*x]\n", "f.yaml:3:7: anchors and aliases are not allowed"},
		{"merge", "kind: Team\nname: a\nspec:\n  <<: {members: [a]}\n", "f.yaml:4:3: merge keys are not allowed"},
		{"tag", "kind: Team\nname: !!binary YQ==\nspec: {}\n", "f.yaml:2:7: tags are not allowed"},
		{"number key", agent + "  labels: {1: a}\n", "f.yaml:6:12: spec.labels: keys must be strings"},
		{"not YAML", "kind: [\n", "f.yaml:"},
		{"tab", "kind: Team\nname: a\nspec:\n\tmembers: []\n", "f.yaml:4: found character that cannot start any token"},
		{"same twice", agent + "---\n" + agent, "f.yaml:7:1: name: Agent a is already in f.yaml, line 1"},
		{"state", "kind: Team\nname: a\nstate: gone\n", `f.yaml:3:8: state: must be "absent" or left out`},
		{"absent with spec", "kind: Team\nname: a\nstate: absent\nspec: {}\n", "f.yaml:4:7: spec: what is absent has no spec"},
		{"absent tool", "kind: Tool\nname: a/b\nstate: absent\n", "f.yaml:1:1: state: tools come from their upstream"},
		{"policy in YAML", "kind: Policy\nname: a\nspec: {text: x}\n", "f.yaml:1:1: kind: policies are written in .cedar files"},
		{"tool of another connection", "kind: Tool\nname: a/b\nspec: {connection: c, effect: read}\n", `f.yaml:3:20: spec.connection: the name says connection "a"`},
		{"secret from two places", "kind: Secret\nname: a\nspec: {owner: o, connection: c, from: {env: A, file: B}}\n", "f.yaml:3:39: spec.from: give either env or file"},
		{"secret value in the file", "kind: Secret\nname: a\nspec: {owner: o, connection: c, value: abc}\n", "f.yaml:3:33: spec.value: unknown key"},
		{"expiry", "kind: Grant\nname: a\nspec: {agent: a, connection: c, tools: [x], expires: soon}\n", `f.yaml:3:54: spec.expires: "soon" is neither a time`},
		{"negative expiry", "kind: Grant\nname: a\nspec: {agent: a, connection: c, tools: [x], expires: -3h}\n", `spec.expires: "-3h" is neither`},
		{"no tools", "kind: Grant\nname: a\nspec: {agent: a, connection: c, tools: []}\n", "f.yaml:3:40: spec.tools: names no tool"},
		{"timeout", "kind: Connection\nname: a\nspec: {kind: mcp, owner: o, timeout: fast}\n", `f.yaml:3:38: spec.timeout: "fast" is not a duration`},
	} {
		t.Run(c.name, func(t *testing.T) {
			resources, problems := manifest.Parse([]manifest.File{{Name: "f.yaml", Text: c.text}})
			if len(problems) == 0 || resources != nil {
				t.Fatalf("accepted: %v", resources)
			}
			if got := problems[0].String(); !strings.HasPrefix(got, c.want) && !strings.Contains(got, strings.TrimPrefix(c.want, "f.yaml:")) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestParseFiles(t *testing.T) {
	for name, c := range map[string]struct {
		files []manifest.File
		want  string
	}{
		"nothing":       {nil, "1 to 1000 files"},
		"extension":     {[]manifest.File{{Name: "notes.txt", Text: "x"}}, "notes.txt: the file name must end in"},
		"policy name":   {[]manifest.File{{Name: "p/My Policy.cedar", Text: ""}}, "p/My Policy.cedar: the file's name is the policy's"},
		"policy twice":  {[]manifest.File{{Name: "a/p.cedar", Text: ""}, {Name: "b/p.cedar", Text: ""}}, "b/p.cedar:1:1: name: Policy p is already in a/p.cedar, line 1"},
		"file twice":    {[]manifest.File{{Name: "a.yaml", Text: ""}, {Name: "a.yaml", Text: ""}}, "the file is there twice"},
		"invalid UTF-8": {[]manifest.File{{Name: "a.yaml", Text: "\xff"}}, "not UTF-8"},
		"NUL":           {[]manifest.File{{Name: "a.cedar", Text: "a\x00"}}, "not UTF-8"},
		"large":         {[]manifest.File{{Name: "a.yaml", Text: strings.Repeat("#", manifest.MaxFile+1)}}, "over 1048576 bytes"},
		"bomb": {[]manifest.File{{Name: "a.yaml", Text: "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n"}},
			"a.yaml:1:4: anchors and aliases"},
		"deep": {[]manifest.File{{Name: "a.yaml", Text: "a: " + strings.Repeat("[", 200) + strings.Repeat("]", 200)}}, "nested more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := manifest.Parse(c.files)
			if len(problems) == 0 || !strings.Contains(problems[0].String(), c.want) {
				t.Errorf("%v", problems)
			}
		})
	}
	resources, problems := manifest.Parse([]manifest.File{{Name: "policies_test.yaml", Text: "- anything"}, {Name: "p.cedar", Text: "// x"},
		{Name: "a.yaml", Text: "# only a comment\n---\n---\nkind: Grant\nname: g\nspec: {agent: a, connection: c, tools: ['*'], expires: 2027-01-31T12:00:00+01:00}\n---\nkind: User\nname: u\nspec: {role: admin}\n"}})
	if len(problems) > 0 || len(resources) != 3 || resources[0].Kind != "User" || resources[1].Kind != "Grant" || resources[2].Kind != "Policy" {
		t.Fatalf("%v %v", resources, problems)
	}
	if at := resources[1].Spec.(*manifest.GrantSpec).Expires.At; !at.Equal(time.Date(2027, 1, 31, 11, 0, 0, 0, time.UTC)) {
		t.Errorf("%v", at)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("kind: Agent\nname: a\nspec:\n  owner: sam\n  stage: production\n  labels: {a: b}\n")
	f.Add("kind: Grant\nname: a\nspec: {agent: a, connection: c, tools: [x], expires: 90d}\n---\nkind: Tool\nname: a/b\nspec: {effect: read}\n")
	f.Add("kind: Tool\nname: a/b\nspec: {effect: read, subject: a.b, objects: {invoice: lines.*.id}}\n---\nkind: Connection\nname: c\nspec: {kind: mcp, owner: o, capture: all}\n")
	f.Add("a: &a [*a]\n<<: *a\n? [x]\n: !!set {}\n")
	f.Add("\"kind\": 'Secret'\nname: |\n  a\nspec: {owner: o, connection: c, hosts: [h], from: {env: X}}\nstate: absent\n")
	f.Fuzz(func(t *testing.T, text string) {
		files := []manifest.File{{Name: "f.yaml", Text: text}}
		resources, problems := manifest.Parse(files)
		if len(problems) > 0 && resources != nil {
			t.Fatal("resources in spite of problems")
		}
		for _, p := range problems {
			if p.File != "f.yaml" || p.Message == "" || p.Line < 0 || p.Line > strings.Count(text, "\n")+2+strings.Count(text, "\r")+strings.Count(text, "\u2028")+strings.Count(text, "\u2029")+strings.Count(text, "\u0085") {
				t.Fatalf("%+v", p)
			}
		}
		for _, r := range resources {
			if r.Kind == "" || r.Name == "" || (r.Spec == nil) != r.Absent {
				t.Fatalf("%+v", r)
			}
		}
	})
}
