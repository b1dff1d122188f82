package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/cli"
)

// log makes a run's entries one millisecond apart.
type log struct {
	entries []client.Entry
	now     time.Time
}

func (l *log) add(typ, call, connection, tool, outcome string, payloads ...string) {
	l.now = l.now.Add(time.Millisecond)
	e := client.Entry{Event: client.Event{Type: typ, Time: l.now, Call: call, Connection: connection, Tool: tool, Agent: "robo"}}
	if outcome != "" {
		e.Event.Outcome = &client.Outcome{Status: outcome}
	}
	for i := 0; i+1 < len(payloads); i += 2 {
		e.Payloads = append(e.Payloads, client.Payload{Name: payloads[i], Text: payloads[i+1]})
	}
	l.entries = append(l.entries, e)
}

func TestEventLineIsOneInertLine(t *testing.T) {
	bad := "x\n\x1b[2J\u202ey"
	for _, typ := range []string{"call.denied", "call.outcome", "call.refused", "agent.created", bad} {
		line := cli.EventLine(client.Event{ID: bad, Type: typ, Actor: client.Actor{Kind: "agent", Name: bad}, Agent: bad, Connection: bad, Tool: bad, Object: bad, Reason: bad,
			Decision: &client.Decision{Effect: "deny", Reason: bad, Policies: []string{bad}}, Outcome: &client.Outcome{Status: bad, Error: bad, Usage: &client.Usage{Model: bad}},
			Detail: []byte(`{"code": "c\u001b", "reason": "r\n\u202e"}`)})
		if strings.ContainsAny(line, "\n\x1b\u202e") || !strings.Contains(line, "[2J") {
			t.Errorf("%q", line)
		}
	}
}

func TestTraceOf(t *testing.T) {
	l := &log{now: time.Unix(1000, 0)}
	l.add("run.started", "", "", "", "")
	l.add("call.intent", "c0", "desk", "mcp:initialize", "")
	l.add("call.outcome", "c0", "desk", "mcp:initialize", "succeeded")
	l.add("call.intent", "c1", "openai", "chat.completions", "", "prompt", `[{"role":"user","content":"go"}]`)
	l.add("call.outcome", "c1", "openai", "chat.completions", "succeeded", "answer", "reads the ticket")
	l.add("call.intent", "c2", "desk", "get_ticket", "")
	l.add("call.denied", "c3", "desk", "send_email", "")
	l.add("call.outcome", "c2", "desk", "get_ticket", "succeeded", "result", "{}") // after the next call began
	l.add("call.refused", "", "ledger", "pay_invoice", "")
	l.add("call.intent", "c4", "desk", "mcp:ping", "")
	l.add("call.outcome", "c4", "desk", "mcp:ping", "broken")
	l.add("call.intent", "c5", "openai", "chat.completions", "", "prompt", "[]")
	l.add("agent.suspended", "", "", "", "")
	tr := cli.TraceOf("run_x", l.entries)
	want := `model openai/chat.completions succeeded
  tool desk/get_ticket succeeded
  tool desk/send_email call.denied
  tool ledger/pay_invoice call.refused
protocol desk/mcp:ping broken
model openai/chat.completions
`
	if got := tr.Tree(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if tr.Calls != 7 || tr.Refused != 2 || len(tr.Protocol) != 1 || len(tr.Other) != 1 || tr.Agent != "robo" || tr.Ended.Sub(tr.Started) != 12*time.Millisecond {
		t.Errorf("%+v", tr)
	}
	if tr.Steps[0].Answer != "reads the ticket" || tr.Steps[0].Steps[0].Result != "{}" {
		t.Errorf("%+v", tr.Steps[0])
	}
	if empty := cli.TraceOf("run_y", nil); empty.Steps == nil || empty.Calls != 0 {
		t.Errorf("%+v", empty)
	}
}
