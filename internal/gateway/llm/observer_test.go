package llm_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/llm"
)

var (
	sse   = http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}}
	plain = http.Header{"Content-Type": {"application/json"}}
)

const (
	chatStream = "data: {\"id\":\"c\",\"model\":\"gpt-5\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hel\"}}]}\n\n" +
		"data: {\"id\":\"c\",\"model\":\"gpt-5\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\r\n\r\n" +
		"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"name\":\"pay\",\"arguments\":\"{\\\"a\\\":\"}}]}}]}\n\n" +
		"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"1}\"}}]}}]}\n\n" +
		"data: {\"choices\":[],\"model\":\"gpt-5\",\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":3}}}\n\n" +
		"data: [DONE]\n\n"
	messageStream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude\",\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\n" +
		"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"tool_use\",\"name\":\"pay\",\"input\":{}}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n" +
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9}}\n\n" +
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	responseStream = "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"item\":{\"type\":\"function_call\",\"name\":\"pay\"}}\n\n" +
		"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hello\"}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5\",\"status\":\"completed\",\"error\":null,\"output\":[{\"content\":[{\"text\":\"Hello\"}]}],\"usage\":{\"input_tokens\":3,\"output_tokens\":4,\"input_tokens_details\":{\"cached_tokens\":1}}}}\n\n"
)

func TestObserverReadsStreamsHoweverTheyAreCut(t *testing.T) {
	for _, c := range []struct {
		name, dialect, stream, text, model string
		in, out, cached                    int64
	}{
		{"chat", "openai", chatStream, "Hello\n[pay] {\"a\":1}", "gpt-5", 7, 2, 3},
		{"responses", "openai", responseStream, "\n[pay] Hello", "gpt-5", 3, 4, 1},
		{"messages", "anthropic", messageStream, "\n[pay] {}Hello", "claude", 9, 9, 4},
	} {
		for _, step := range []int{1, 3, 17, 1 << 20} {
			o := llm.NewObserver(c.dialect)
			o.Begin(200, sse)
			for s := []byte(c.stream); len(s) > 0; {
				n := min(step, len(s))
				o.Chunk(s[:n])
				s = s[n:]
			}
			seen := o.Done(nil)
			u := seen.Usage
			if u == nil || u.Model != c.model || u.Input != c.in || u.Output != c.out || u.Cached != c.cached {
				t.Errorf("%s by %d: usage %+v", c.name, step, u)
			}
			if seen.Failed != "" || len(seen.Payloads) != 1 || string(seen.Payloads[0].Body) != c.text {
				t.Errorf("%s by %d: %q %+v", c.name, step, seen.Failed, seen.Payloads)
			}
		}
	}
}

func TestObserverReadsDocuments(t *testing.T) {
	long := strings.Repeat(`\"usage\":{\"prompt_tokens\":999} `, 6000)
	for _, c := range []struct {
		name, dialect, body, failed string
		in, out                     int64
	}{
		{"chat", "openai", `{"model":"m","choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`, "", 1, 2},
		{"a long one", "openai", `{"model":"m","choices":[{"message":{"content":"` + long + `"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`, "", 1, 2},
		{"messages", "anthropic", `{"model":"m","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":1,"output_tokens":2}}`, "", 1, 2},
		{"an error inside", "openai", `{"error":{"message":"over quota","code":"x"}}`, "over quota", 0, 0},
		{"an error inside", "anthropic", `{"type":"error","error":{"type":"api_error","message":"over quota"}}`, "over quota", 0, 0},
		{"garbage", "openai", `<html>`, "the answer is not JSON", 0, 0},
	} {
		o := llm.NewObserver(c.dialect)
		o.Begin(200, plain)
		o.Chunk([]byte(c.body))
		seen := o.Done(nil)
		if seen.Failed != c.failed {
			t.Errorf("%s: failed %q, want %q", c.name, seen.Failed, c.failed)
		}
		if (c.in > 0) != (seen.Usage != nil) || (seen.Usage != nil && (seen.Usage.Input != c.in || seen.Usage.Output != c.out)) {
			t.Errorf("%s: usage %+v", c.name, seen.Usage)
		}
		for _, p := range seen.Payloads {
			if len(p.Body) > gateway.CaptureCap+gateway.CaptureMargin {
				t.Errorf("%s: kept %d bytes", c.name, len(p.Body))
			}
		}
	}
}

func TestObserverSeesAnErrorEvent(t *testing.T) {
	o := llm.NewObserver("anthropic")
	o.Begin(200, sse)
	o.Chunk([]byte("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\n"))
	if seen := o.Done(nil); seen.Failed != "busy" {
		t.Errorf("failed %q", seen.Failed)
	}
}

// FuzzObserver feeds garbage: it must not panic nor keep more than it may.
func FuzzObserver(f *testing.F) {
	f.Add([]byte(chatStream), true, uint8(7))
	f.Add([]byte(messageStream), false, uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, openai bool, step uint8) {
		name := "anthropic"
		if openai {
			name = "openai"
		}
		for _, h := range []http.Header{sse, plain} {
			o := llm.NewObserver(name)
			o.Begin(200, h)
			for s := b; len(s) > 0; {
				n := min(int(step)+1, len(s))
				o.Chunk(s[:n])
				s = s[n:]
			}
			for _, p := range o.Done(nil).Payloads {
				if len(p.Body) > gateway.CaptureCap+gateway.CaptureMargin {
					t.Fatalf("kept %d bytes", len(p.Body))
				}
			}
		}
	})
}
