package cli

import (
	"fmt"
	"strings"

	"github.com/countersign/countersign/client"
)

// showApproval prints a request so that a person can decide: what it is in
// plain words first, why it is held, and what speaks for and against it.
func (a *app) showApproval(r client.ApprovalDetail) error {
	var needs, votes, remarks []string
	for _, n := range r.Needs {
		needs = append(needs, needLines(n))
	}
	for _, v := range r.Decisions {
		text := fmt.Sprintf("%s: %s, %s: %s", v.Person, v.Verdict, ago(v.At), v.Reason)
		if v.For != "" {
			text = v.Person + " for " + strings.TrimPrefix(text, v.Person)
		}
		if v.Channel != "api" {
			text += " (by " + v.Channel + ")"
		}
		votes = append(votes, text)
	}
	for _, m := range r.Comments {
		text := m.Person + ": " + m.Text
		if m.Asked != "" {
			text = m.Person + " asks " + m.Asked + ": " + m.Text
		}
		remarks = append(remarks, text)
	}
	deadline := "decide " + until(r.DecideBy)
	if !r.ExecuteBy.IsZero() {
		deadline = "execute " + until(r.ExecuteBy)
		if !r.SendAt.IsZero() {
			deadline = "sent " + until(r.SendAt) + " (countersign undo CALL cancels it until then)"
		}
	}
	if r.State != "pending" && r.State != "approved" {
		deadline = ""
	}
	fields := []field{painted("what", r.Summary, bold), row("id", r.ID), painted("state", r.State, approvalColour(r.State)), row("why", r.Why), row("time", deadline),
		row("tool", r.Connection+"/"+r.Tool+" ("+r.Effect+")"), row("held", r.Reason), row("needs", strings.Join(needs, "\n")),
		row("not by", strings.Join(r.Excluded, ", "))}
	fields = append(fields, viewFields(r.View)...)
	fields = append(fields, row("decided", strings.Join(votes, "\n")), row("remarks", strings.Join(remarks, "\n")), row("outcome", r.Outcome),
		row("made as", r.Executed), row("run", r.Run), row("call", r.Call), row("event", r.Event), row("digest", r.Digest))
	return a.show(r, fields...)
}

func needLines(n client.ApprovalNeed) string {
	text := fmt.Sprintf("%d of %s (policy %s)", n.Quorum, strings.Join(n.Groups, " or "), n.Policy)
	if len(n.Tiers) > 0 {
		text += "; then too: " + strings.Join(n.Tiers, ", ")
	}
	if n.ExcludeOwner {
		text += "; not the agent's owner"
	}
	if n.Advice != "" {
		text += "\n  " + n.Advice
	}
	if n.Text != "" {
		text += "\n  | " + strings.ReplaceAll(n.Text, "\n", "\n  | ")
	}
	return text
}

func agentLines(g client.ApprovalAgent) string {
	text := g.Name
	if g.Owner != "" {
		text += ", owned by " + g.Owner
	}
	if g.Backup != "" {
		text += " (backup " + g.Backup + ")"
	}
	if g.Purpose != "" {
		text += ": " + g.Purpose
	}
	var more []string
	for _, f := range [][2]string{{"process", g.Process}, {"team", g.Team}, {"stage", g.Stage}} {
		if f[1] != "" {
			more = append(more, f[0]+" "+f[1])
		}
	}
	return strings.TrimSuffix(text+"\n"+strings.Join(more, ", "), "\n")
}

// viewFields are what people see of the call itself.
func viewFields(v *client.ApprovalView) []field {
	if v == nil {
		return nil
	}
	var args []string
	for _, x := range v.Arguments {
		text := x.Name + " = " + x.Value
		if x.Redacted {
			text += "   <- not all of it is shown"
		}
		if x.Odd != "" {
			text += "   <- " + x.Odd
		}
		args = append(args, text)
	}
	if v.Cut > 0 {
		args = append(args, fmt.Sprintf("and %d bytes that are not shown", v.Cut))
	}
	if v.Missing != "" {
		args = append(args, v.Missing)
	}
	return []field{row("arguments", strings.Join(args, "\n")), row("come from", valueLines(v.Values)), painted("redacted", strings.Join(v.Redacted, ", "), yellow), row("undo", v.Undo.Text),
		row("agent", agentLines(v.Agent)), row("follows", proposalLines(v.Proposals)), row("before", stepLines(v)), row("has read", sourceLines(v.Read)),
		row("approved before", comparedLines(v.Last))}
}

// valueLines says of each value that matters where it comes from.
func valueLines(all []client.ApprovalValue) string {
	var out []string
	for _, v := range all {
		mark := ""
		if v.Origin == "" {
			mark = "   <- nothing endorses it"
		}
		out = append(out, v.Arg+" "+v.Value+" "+v.Said+mark)
	}
	return strings.Join(out, "\n")
}

func proposalLines(all []client.ApprovalProposal) string {
	var out []string
	for _, p := range all {
		out = append(out, fmt.Sprintf("%s by %s (%s)", p.Kind, p.Source, p.ID))
	}
	return strings.Join(out, "\n")
}

func stepLines(v *client.ApprovalView) string {
	var out []string
	if v.More > 0 {
		out = append(out, fmt.Sprintf("(%d calls before these)", v.More))
	}
	for _, s := range v.Before {
		text := s.What + " " + s.Tool
		if s.Outcome != "" {
			text += ", " + s.Outcome
		}
		if len(s.Objects) > 0 {
			text += " " + strings.Join(s.Objects, " ")
		}
		if len(s.Labels) > 0 {
			text += " [" + strings.Join(s.Labels, " ") + "]"
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}

func sourceLines(all []client.ApprovalSource) string {
	var out []string
	for _, s := range all {
		trust := "not marked"
		switch {
		case s.Untrusted:
			trust = "UNTRUSTED: " + strings.Join(s.Labels, " ")
		case len(s.Labels) > 0:
			trust = "marked " + strings.Join(s.Labels, " ")
		}
		text := s.Excerpt
		if text == "" {
			text = s.Missing
		}
		out = append(out, fmt.Sprintf("%s (%s)\n  | %s", s.Tool, trust, text))
	}
	return strings.Join(out, "\n")
}

func comparedLines(all []client.ApprovalCompared) string {
	var out []string
	for _, c := range all {
		text := ago(c.At) + " by " + strings.Join(c.Approvers, ", ")
		if c.Outcome != "" {
			text += " (" + c.Outcome + ")"
		}
		switch {
		case c.Missing != "":
			text += ": cannot be compared, " + c.Missing
		case len(c.Changes) == 0:
			text += ": the same arguments"
		}
		for _, x := range c.Changes {
			text += "\n  " + x.Name + ": " + changeText(x)
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}

func changeText(c client.ApprovalChange) string {
	switch c.Kind {
	case "new":
		return "new, " + c.Now
	case "gone":
		return "gone, was " + c.Then
	}
	return c.Then + " -> " + c.Now
}
