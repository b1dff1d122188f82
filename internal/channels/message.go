package channels

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/inert"
	"github.com/countersign/countersign/internal/words"
)

// Message is what a channel is told: the body of a webhook as it is, and what
// the other kinds make theirs of. All of it is redacted and inert.
type Message struct {
	ID       string           `json:"id"`   // dlv_…, the same in every attempt
	Type     string           `json:"type"` // approval.requested, .escalated, .settled, .overridden, .asked, .answered; notice; channel.test
	Time     time.Time        `json:"time"` // when it happened
	Text     string           `json:"text"` // all of it in one line
	By       string           `json:"by,omitzero"`
	Said     string           `json:"said,omitzero"`
	For      []string         `json:"for,omitzero"` // whom it is for, if it is for persons
	Link     string           `json:"link,omitzero"`
	Approval *MessageApproval `json:"approval,omitzero"`
}

// MessageApproval is the request that a message is about.
type MessageApproval struct {
	ID         string           `json:"id"`
	State      string           `json:"state"`
	Summary    string           `json:"summary"`
	Agent      string           `json:"agent"`
	Owner      string           `json:"owner,omitzero"`
	Connection string           `json:"connection"`
	Tool       string           `json:"tool"`
	Effect     string           `json:"effect"`
	Reason     string           `json:"reason"` // why it is held
	Why        string           `json:"why,omitzero"`
	Groups     []string         `json:"groups"`
	DecideBy   time.Time        `json:"decide_by"`
	Digest     string           `json:"digest"`
	Arguments  []words.Argument `json:"arguments,omitzero"`
	Undo       string           `json:"undo,omitzero"`
}

// message puts together what is told, as things are now.
func (s *Service) message(ctx context.Context, c Channel, d delivery) (Message, error) {
	m := Message{ID: d.ID, Type: "approval." + d.What, Time: d.Created, By: inert.Text(d.News.By), Said: inert.Text(d.News.Said), For: d.News.Names}
	if d.What == whatTest {
		m.Type, m.Text = "channel.test", "A test of the channel "+c.Name+" by "+m.By
		return m, nil
	}
	if d.What == whatSaid {
		m.Type, m.Text, m.Said = "notice", inert.Text(d.News.Said), ""
		return m, nil
	}
	r, view, err := s.Approvals.Told(ctx, d.Approval)
	if errors.Is(err, approvals.ErrNotFound) {
		m.Text = "The request " + d.Approval + " is gone"
		return m, nil
	}
	if err != nil {
		return m, err
	}
	contents := c.Contents || c.Kind == Slack
	a := &MessageApproval{
		ID: r.ID, State: string(r.State), Summary: view.Summary, Agent: inert.Text(r.Binding.Agent), Owner: view.Agent.Owner, Connection: inert.Text(r.Binding.Connection),
		Tool: inert.Text(r.Binding.Tool), Effect: r.Effect, Reason: inert.Text(r.Reason), Why: inert.Text(r.Why), Groups: groupsOf(r), DecideBy: r.DecideBy, Digest: r.Digest,
		Arguments: view.Arguments, Undo: view.Undo.Text,
	}
	if !contents {
		a.Summary, a.Arguments = words.Join(words.Plain(r.Binding.Agent, r.Binding.Connection, r.Binding.Tool, nil)), nil
		m.Said = ""
		if r.State == approvals.Denied {
			a.Why = "denied" // its reason may speak of what is in the call
		}
	}
	m.Approval, m.Link = a, s.Link(r.ID)
	m.Text = m.line()
	return m, nil
}

// line says what happened in one line.
func (m Message) line() string {
	a := m.Approval
	switch approvals.What(strings.TrimPrefix(m.Type, "approval.")) {
	case approvals.Requested:
		return a.Summary + " (waits for " + strings.Join(a.Groups, ", ") + ")"
	case approvals.Escalated:
		return a.Summary + " still waits; " + strings.Join(a.Groups, ", ") + " may decide now"
	case approvals.Overridden:
		return m.By + " broke the glass for " + a.ID + ": " + a.Summary
	case approvals.Asked:
		return m.By + " asks about " + a.ID + ": " + m.Said
	case approvals.Answered:
		return m.By + " answers about " + a.ID + ": " + m.Said
	}
	return a.Summary + ": " + a.State + " (" + a.Why + ")"
}

func (m Message) subject() string {
	if m.Type == "channel.test" {
		return "Countersign: a test"
	}
	return "Countersign: " + words.Short(m.Text)
}

// lines says everything as plain text, for e-mail and its like.
func (m Message) lines() string {
	out := []string{m.Text}
	if a := m.Approval; a != nil {
		out = append(out, "", "agent   "+a.Agent+", owned by "+a.Owner, "tool    "+a.Connection+"/"+a.Tool+" ("+a.Effect+")", "held    "+a.Reason, "decide  by "+a.DecideBy.UTC().Format("2 January 2006, 15:04 MST"))
		for _, x := range a.Arguments {
			out = append(out, "        "+x.Name+" = "+x.Value)
		}
		out = append(out, "", "Sign in to see all of it and to decide:", m.Link)
	}
	return strings.Join(out, "\n") + "\n"
}

// The blocks of a Slack message (api.slack.com/block-kit). Foreign text stands
// in plain_text elements only: in these Slack makes nothing of anything.
type block map[string]any

func plain(text string, most int) block {
	if r := []rune(text); len(r) > most {
		text = string(r[:most-1]) + "…"
	}
	return block{"type": "plain_text", "text": text, "emoji": false}
}

const (
	maxSection = 2900 // characters that Slack takes in a section
	maxFields  = 20   // arguments shown in Slack
)

// slack returns the arguments of chat.postMessage, or of chat.update for the
// message named ref.
func (m Message) slack(room, ref string) map[string]any {
	out := map[string]any{"channel": room, "text": escaped(m.Text), "parse": "none", "link_names": false, "mrkdwn": false, "unfurl_links": false, "unfurl_media": false}
	if ref != "" {
		out["ts"] = ref
	}
	blocks := []block{{"type": "section", "text": plain(m.Text, maxSection)}}
	if a := m.Approval; a != nil {
		lines := []string{"Agent: " + a.Agent + ", owned by " + a.Owner, "Held: " + a.Reason, "Undo: " + a.Undo}
		for i, x := range a.Arguments {
			if i == maxFields {
				lines = append(lines, "… and more")
				break
			}
			line := x.Name + " = " + words.Short(x.Value)
			if x.Odd != "" {
				line += "   <- " + x.Odd
			}
			lines = append(lines, line)
		}
		blocks = append(blocks, block{"type": "section", "text": plain(strings.Join(lines, "\n"), maxSection)})
		blocks = append(blocks, m.actions()...)
	}
	out["blocks"] = blocks
	return out
}

// actions are what can be done from Slack: nothing but looking, once a request
// waits no more.
func (m Message) actions() []block {
	look := block{"type": "button", "action_id": "look", "text": plain("Sign in to see all", 75), "url": m.Link}
	if m.Approval.State != string(approvals.Pending) {
		return []block{{"type": "actions", "block_id": "look", "elements": []block{look}}}
	}
	button := func(verdict approvals.Verdict, label, style string) block {
		return block{"type": "button", "action_id": string(verdict), "text": plain(label, 75), "style": style, "value": m.Approval.ID}
	}
	return []block{
		{"type": "input", "block_id": "reason", "optional": true, "label": plain("Reason", 75), "element": block{"type": "plain_text_input", "action_id": "reason", "max_length": 1000}},
		{"type": "actions", "block_id": "decide", "elements": []block{button(approvals.Approve, "Approve", "primary"), button(approvals.Deny, "Deny", "danger"), look}},
	}
}

// reply is an answer that only who clicked sees.
func reply(text string) map[string]any {
	return map[string]any{"response_type": "ephemeral", "replace_original": false, "text": escaped(inert.Text(text))}
}

// escaped keeps Slack from reading links, mentions and formatting in a text
// (api.slack.com, "Formatting text": these three characters are escaped).
func escaped(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
