package console

import (
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/client"
)

// inspected are the labels of inspection, in the order of the form.
var inspected = []struct{ Label, Title string }{
	{"secret", "Secrets"},
	{"pii", "Personal data"},
	{"injection", "Injection"},
}

// noted is what is done about what is found unless a connection says else.
const noted = "note"

// choice is what is done about one label, and what can be.
type choice struct {
	Label, Title, Action string
	Groups               []client.Group
}

// Lost is the group that the choice names and that is not there any more.
func (c choice) Lost() string {
	group, hold := strings.CutPrefix(c.Action, "hold:")
	if !hold || slices.ContainsFunc(c.Groups, func(g client.Group) bool { return g.Name == group }) {
		return ""
	}
	return group
}

// consequence is what a choice leads to, in words.
type consequence struct {
	Text string
	Bad  bool // it does not work so
}

// choices are what a connection does about what is found in its calls.
func choices(of map[string]string, groups []client.Group) []choice {
	var out []choice
	for _, l := range inspected {
		c := choice{l.Label, l.Title, noted, groups}
		if a := of[l.Label]; a != "" {
			c.Action = a
		}
		out = append(out, c)
	}
	return out
}

// Says tells what the choice leads to, or what is wrong with it and what to do.
func (c choice) Says() consequence {
	what := strings.ToLower(c.Title)
	group, hold := strings.CutPrefix(c.Action, "hold:")
	switch {
	case c.Action == noted:
		return consequence{Text: what + ": the call goes on, and its events carry the label " + c.Label}
	case c.Action == "redact":
		return consequence{Text: what + ": a marker stands for it, in requests and in answers"}
	case c.Action == "pseudonymise":
		return consequence{Text: what + ": a placeholder stands for it, always the same for an agent; a tool that may have the value gets it back"}
	case c.Action == "block":
		return consequence{Text: what + ": the request is refused; an answer ends before it"}
	case !hold:
		return consequence{fmt.Sprintf("%s: %q is nothing that can be done; choose one of the list", what, c.Action), true}
	}
	i := slices.IndexFunc(c.Groups, func(g client.Group) bool { return g.Name == group })
	switch {
	case i < 0:
		return consequence{fmt.Sprintf("%s: there is no group %s: every such call would be denied. Make it under Users and groups, or choose another", what, group), true}
	case len(c.Groups[i].Members) == 0:
		return consequence{fmt.Sprintf("%s: the group %s has no members: every such call would be denied. Add people under Users and groups, or choose another", what, group), true}
	}
	return consequence{Text: fmt.Sprintf("%s: people of %s decide about the request, exactly as it is; an answer ends before it", what, group)}
}

// inspectForm is what the form says.
func (v *visit) inspectForm() map[string]string {
	out := map[string]string{}
	for _, l := range inspected {
		out[l.Label] = v.Form.Get("inspect-" + l.Label)
	}
	return out
}

// setInspect changes what a connection does about what is found, or with
// "check" says what that would lead to.
func (c *Console) setInspect(v *visit) (done, error) {
	name := v.Request.PathValue("name")
	groups, err := v.API.Groups(v.ctx())
	if err != nil {
		return done{}, err
	}
	chosen := choices(v.inspectForm(), groups)
	if v.Form.Get("check") != "" {
		return done{template: "inspected", title: name, data: chosen}, nil
	}
	for _, x := range chosen {
		if says := x.Says(); says.Bad {
			return done{}, &client.Error{Status: 422, Detail: says.Text + ". Nothing is changed."}
		}
	}
	of, err := v.API.Connection(v.ctx(), name)
	if err != nil {
		return done{}, err
	}
	spec := of.Spec
	spec.Inspect = v.inspectForm()
	for _, label := range []string{"guard", "untrusted"} { // the form does not have them
		if action := of.Spec.Inspect[label]; action != "" {
			spec.Inspect[label] = action
		}
	}
	_, err = v.reason().PutConnection(v.ctx(), name, spec)
	return done{to: string(pathOf("/connections", name)) + "#inspection", said: "What is done about what is found in calls of " + name + " is changed; it holds for the next call."}, err
}
