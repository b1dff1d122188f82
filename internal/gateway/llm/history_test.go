package llm_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/gateway/llm"
)

// A proposal is told with the event that completes it, before the end of the
// stream: clients act on it then.
func TestProposalsAreToldWhenTheyAreComplete(t *testing.T) {
	for _, c := range []struct{ name, dialect, stream, last, want string }{
		{"chat", "openai", chatStream, "", ""}, // without an end of the call, at the end
		{"chat, finished", "openai", `data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_0123456789","function":{"name":"pay","arguments":"{\"a\":"}}]}}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}` + "\n\n", `data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}` + "\n\n", `pay {"a":1}`},
		{"chat, the next begins", "openai", `data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_0123456789","function":{"name":"pay","arguments":"{}"}}]}}]}` + "\n\n",
			`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_0123456780","function":{"name":"next","arguments":""}}]}}]}` + "\n\n", `pay {}`},
		{"responses", "openai", responseStream, `data: {"type":"response.output_item.done","item":{"type":"function_call","call_id":"call_0123456789","name":"pay","arguments":"{}"}}` + "\n\n", `pay {}`},
		{"messages", "anthropic", `data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_0123456789","name":"pay","input":{}}}` + "\n\n" +
			`data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}` + "\n\n", `data: {"type":"content_block_stop","index":1}` + "\n\n", `pay {"a":1}`},
		{"the provider's own", "anthropic", `data: {"type":"content_block_start","index":1,"content_block":{"type":"server_tool_use","id":"srvtoolu_0123456789","name":"pay","input":{}}}` + "\n\n", `data: {"type":"content_block_stop","index":1}` + "\n\n", ""},
	} {
		o := llm.NewObserver(c.dialect)
		o.Begin(200, sse)
		o.Chunk([]byte(c.stream))
		if got := proposed(o, false); got != "" {
			t.Errorf("%s: %q before it is complete", c.name, got)
		}
		o.Chunk([]byte(c.last))
		if got := proposed(o, false); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if got := proposed(o, true); strings.Contains(got, "pay") != (c.name == "chat") {
			t.Errorf("%s: %q at the end", c.name, got)
		}
	}
	o := llm.NewObserver("openai")
	o.Begin(500, plain)
	o.Chunk([]byte(`{"choices":[{"message":{"tool_calls":[{"function":{"name":"pay","arguments":"{}"}}]}}]}`))
	if got := proposed(o, true); got != "" {
		t.Errorf("an error proposes %q", got)
	}
}

func proposed(o interface {
	Chunk([]byte)
}, end bool) string {
	var out []string
	for _, c := range llm.Proposed(o, end).Calls {
		out = append(out, c.Tool+" "+string(c.Args))
	}
	return strings.Join(out, ";")
}

func TestWhatARequestContinues(t *testing.T) {
	long := strings.Repeat("word ", 20)
	for _, c := range []struct{ name, dialect, body, want string }{
		{"chat", "openai", `{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"assistant","tool_calls":[{"id":"call_0123456789"},{"id":"short"}]},{"role":"tool","tool_call_id":"call_9876543210","content":"x"}]}`, "call call_9876543210;call call_0123456789"},
		{"words", "openai", `{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"` + long + `"},{"role":"user","content":[{"type":"text","text":"go on"}]}]}`, "text hi\x00" + strings.TrimSpace(long)},
		{"few words", "openai", `{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"OK"},{"role":"user","content":"go on"}]}`, ""},
		{"responses", "openai", `{"model":"m","previous_response_id":"resp_0123456789","conversation":{"id":"conv_0123456789"},"input":[{"type":"function_call_output","call_id":"call_0123456789","output":"x"},{"type":"message","role":"assistant","id":"msg_0123456789","content":[]}]}`,
			"answer resp_0123456789;answer conv_0123456789;answer msg_0123456789;call call_0123456789"},
		{"messages", "anthropic", `{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"toolu_0123456789","name":"x","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_9876543210","content":"x"}]}]}`, "call toolu_9876543210;call toolu_0123456789"},
		{"nothing of that form", "openai", `{"model":"m","messages":[1,{"role":2},{"content":{"a":1}},{"tool_calls":"x"},null],"previous_response_id":7}`, ""},
	} {
		got, err := llm.Links([]byte(c.body), c.dialect)
		if err != nil || got != c.want {
			t.Errorf("%s: %q %v, want %q", c.name, got, err, c.want)
		}
	}
	var many []string
	for i := range 10_000 {
		many = append(many, fmt.Sprintf(`{"role":"tool","tool_call_id":"call_0123456789_%d","content":"x"}`, i))
	}
	got, err := llm.Links([]byte(`{"model":"m","messages":[`+strings.Join(many, ",")+`]}`), "openai")
	if n := strings.Count(got, "call_"); err != nil || n != 64 || !strings.HasPrefix(got, "call call_0123456789_9999") {
		t.Errorf("of a flood %d links count: %.60q %v", n, got, err)
	}
}
