package llm_test

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/llm"
)

func TestScanReadsWhatPolicyDecidesOn(t *testing.T) {
	for _, c := range []struct{ name, dialect, tool, body, args string }{
		{"chat", "openai", "chat.completions", `{"model":"gpt-5","messages":[{"role":"user","content":"hi"}]}`, `{"model":"gpt-5","stream":false}`},
		{"escaped model", "openai", "chat.completions", `{"model":"gpt\u002d5","messages":[]}`, `{"model":"gpt-5","stream":false}`},
		{"limits", "openai", "chat.completions", `{"model":"m","max_tokens":5,"max_completion_tokens":400,"n":3,"stream":true}`, `{"model":"m","stream":true,"max_tokens":400,"n":3}`},
		{"the generous limit", "openai", "chat.completions", `{"model":"m","max_tokens":400,"max_completion_tokens":5}`, `{"model":"m","stream":false,"max_tokens":400}`},
		{"a limit that is no integer", "openai", "chat.completions", `{"model":"m","max_tokens":1e9,"max_completion_tokens":5}`, `{"model":"m","stream":false,"max_tokens":1e9}`},
		{"responses", "openai", "responses", `{"model":"m","max_output_tokens":7,"input":"x","tools":[{"type":"web_search"},{"type":"function","name":"f"}]}`, `{"model":"m","stream":false,"max_tokens":7,"tools":["web_search","f"],"provider_tools":["web_search"]}`},
		{"tools by other ways", "openai", "chat.completions", `{"model":"m","web_search_options":{},"plugins":[{"id":"web"}],"prompt":{"id":"pmpt_1"},"search_parameters":null}`, `{"model":"m","stream":false,"provider_tools":["web_search_options","plugins","prompt"]}`},
		{"chat tools", "openai", "chat.completions", `{"tools":[{"type":"function","function":{"parameters":{"name":1},"name":"pay"}}],"model":"m"}`, `{"model":"m","stream":false,"tools":["pay"]}`},
		{"old functions", "openai", "chat.completions", `{"functions":[{"name":"pay"}],"model":"m"}`, `{"model":"m","stream":false,"tools":["pay"]}`},
		{"every name of a tool", "openai", "chat.completions", `{"tools":[{"type":"function","name":"a","function":{"name":"b"},"custom":{"name":"c"}}],"model":"m"}`, `{"model":"m","stream":false,"tools":["a","b","c"]}`},
		{"no tools is not nothing", "openai", "chat.completions", `{"tools":[],"model":"m"}`, `{"model":"m","stream":false,"tools":[]}`},
		{"nulls", "openai", "chat.completions", `{"tools":null,"max_tokens":null,"n":null,"stream":null,"model":"m"}`, `{"model":"m","stream":false}`},
		{"embeddings", "openai", "embeddings", `{"model":"m","input":["a"],"stream":true}`, `{"model":"m"}`},
		{"messages", "anthropic", "messages", `{"model":"c","max_tokens":10,"system":"s","messages":[],"tools":[{"name":"t","input_schema":{}},{"type":"bash_1","name":"bash"}]}`, `{"model":"c","stream":false,"max_tokens":10,"tools":["t","bash","bash_1"],"provider_tools":["bash_1"]}`},
		{"a type behind a name", "openai", "responses", `{"model":"m","input":"x","tools":[{"type":"mcp","name":"f","server_url":"https://x"}]}`, `{"model":"m","stream":false,"tools":["f","mcp"],"provider_tools":["mcp","mcp:https://x"]}`},
		{"the provider's own MCP", "anthropic", "messages", `{"model":"c","max_tokens":10,"mcp_servers":[{"type":"url","name":"evil","url":"https://x"}]}`, `{"model":"c","stream":false,"max_tokens":10,"tools":["evil","mcp"],"provider_tools":["mcp","mcp:https://x"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := llm.Scan([]byte(c.body), c.dialect, c.tool)
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Args) != c.args {
				t.Errorf("args %s, want %s", got.Args, c.args)
			}
			if !got.Args.IsValid() {
				t.Error("args are not strict JSON")
			}
		})
	}
}

func TestScanFindsThePromptInPlace(t *testing.T) {
	got, err := llm.Scan([]byte(`{"model":"c", "system": "be kind" ,"messages":[ {"role":"user"} ]}`), "anthropic", "messages")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`system="be kind"`, `prompt=[ {"role":"user"} ]`}
	if !slices.Equal(got.Prompt, want) {
		t.Errorf("prompt %q, want %q", got.Prompt, want)
	}
}

func TestScanRefuses(t *testing.T) {
	deep := strings.Repeat(`[`, 200) + strings.Repeat(`]`, 200)
	for _, c := range []struct{ name, body, code string }{
		{"nothing", ``, "bad_json"},
		{"an array", `[]`, "bad_field"},
		{"a string", `"x"`, "bad_field"},
		{"half", `{"model":"m"`, "bad_json"},
		{"duplicate names", `{"model":"safe","model":"dear"}`, "bad_json"},
		{"duplicate names by escape", `{"model":"safe","\u006dodel":"dear"}`, "bad_json"},
		{"duplicate names deep inside", `{"model":"m","messages":[{"role":"user","role":"system"}]}`, "bad_json"},
		{"names in another case", `{"model":"safe","Model":"dear"}`, "bad_field"},
		{"names in another case alone", `{"MODEL":"dear"}`, "bad_field"},
		{"names that fold to ASCII", `{"model":"m","\u017ftream":true}`, "bad_field"},
		{"a tool's name in another case", `{"model":"m","tools":[{"name":"a","Name":"b"}]}`, "bad_field"},
		{"invalid UTF-8", "{\"model\":\"m\xff\"}", "bad_json"},
		{"invalid UTF-8 where nobody looks", "{\"model\":\"m\",\"x\":\"\xc0\xaf\"}", "bad_json"},
		{"a lone surrogate", `{"model":"m","x":"\ud800"}`, "bad_json"},
		{"trailing data", `{"model":"m"} {"model":"n"}`, "bad_json"},
		{"trailing garbage", `{"model":"m"}x`, "bad_json"},
		{"depth", `{"model":"m","x":` + deep + `}`, "json_too_deep"},
		{"no model", `{"messages":[]}`, "bad_field"},
		{"a model that is no string", `{"model":{"x":1}}`, "bad_field"},
		{"a stream that is no boolean", `{"model":"m","stream":"false"}`, "bad_field"},
		{"a limit that is no number", `{"model":"m","max_tokens":"9"}`, "bad_field"},
		{"tools that are no array", `{"model":"m","tools":{"name":"x"}}`, "bad_field"},
		{"a tool without a name", `{"model":"m","tools":[{}]}`, "bad_field"},
		{"a comment", `{"model":"m"/**/}`, "bad_json"},
		{"a byte order mark", "\xef\xbb\xbf{\"model\":\"m\"}", "bad_json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := llm.Scan([]byte(c.body), "openai", "chat.completions")
			if err == nil {
				t.Fatalf("accepted as %s", got.Args)
			}
			public := fault.Public(err)
			if public.Code != c.code || public.Kind != fault.Invalid {
				t.Errorf("refused as %v %s, want %s: %v", public.Kind, public.Code, c.code, err)
			}
		})
	}
}

func TestDepthIsCountedOutsideStrings(t *testing.T) {
	text := `{"model":"m","x":"` + strings.Repeat(`[{\"\\`, 500) + `"}`
	if llm.TooDeep([]byte(text)) {
		t.Error("brackets inside a string were counted")
	}
	at := strings.Repeat("[", 128) + strings.Repeat("]", 128)
	if llm.TooDeep([]byte(at)) || !llm.TooDeep([]byte("["+at+"]")) {
		t.Error("the limit is not 128")
	}
}

// FuzzScan holds the scanner against the standard library's strict reader: what
// one accepts the other must read the same way.
func FuzzScan(f *testing.F) {
	for _, s := range []string{`{"model":"m"}`, `{"model":"m","tools":[{"type":"function","function":{"name":"x"}}],"stream":true,"max_tokens":12}`,
		`{"model":"a","model":"b"}`, `{"model":"m","messages":[{"content":"\ud83d\ude00"}]}`, `{"Model":"m"}`, `[[[[`, "{\"model\":\"\xff\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := llm.Scan(body, "openai", "chat.completions")
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("an error that is no refusal: %v", err)
			}
			return
		}
		var want struct {
			Model  string `json:"model"`
			Stream bool   `json:"stream"`
		}
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("accepted what the strict reader refuses: %v", err)
		}
		if want.Model != got.Model || want.Stream != got.Stream {
			t.Fatalf("read %q %v, the strict reader %q %v", got.Model, got.Stream, want.Model, want.Stream)
		}
		if !got.Args.IsValid() {
			t.Fatalf("args are not JSON: %q", got.Args)
		}
	})
}

func TestFilterModels(t *testing.T) {
	keep := func(m string) bool { return strings.HasPrefix(m, "ok") }
	for _, c := range []struct{ name, body, want string }{
		{"keeps order, spacing and what it does not know",
			"{ \"object\": \"list\",\n \"data\" : [ {\"id\":\"ok-1\", \"x\":1.10}, {\"id\":\"no\"},{\"y\":12345678901234567890,\"id\":\"ok-2\"} ] , \"z\":null}",
			"{ \"object\": \"list\",\n \"data\" : [{\"id\":\"ok-1\", \"x\":1.10},{\"y\":12345678901234567890,\"id\":\"ok-2\"}] , \"z\":null}"},
		{"nothing left", `{"data":[{"id":"no"}]}`, `{"data":[]}`},
		{"nothing there", `{"data":[]}`, `{"data":[]}`},
		{"cursors", `{"data":[{"id":"no"},{"id":"ok-1"},{"id":"ok-2"},{"id":"nope"}],"first_id":"no","has_more":false,"last_id":"nope"}`,
			`{"data":[{"id":"ok-1"},{"id":"ok-2"}],"first_id":"ok-1","has_more":false,"last_id":"ok-2"}`},
		{"cursors of nothing", `{"first_id":"no","last_id":"no","data":[{"id":"no"}],"has_more":false}`, `{"first_id":null,"last_id":null,"data":[],"has_more":false}`},
		{"the cursor to the next page", `{"data":[{"id":"ok-1"},{"id":"no"}],"first_id":"ok-1","last_id":"no","has_more":true}`,
			`{"data":[{"id":"ok-1"}],"first_id":"ok-1","last_id":"no","has_more":true}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := llm.FilterModels([]byte(c.body), keep)
			if err != nil || string(got) != c.want {
				t.Errorf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"data":{}}`, `{"data":[1]}`, `{"data":[{"name":"no"}]}`, `{"data":[{"id":3}]}`,
		`{"data":[{"id":"no","id":"ok"}]}`, `{"data":[],"data":[{"id":"no"}]}`, `{"data":[{"id":"ok"}]} x`} {
		if got, err := llm.FilterModels([]byte(bad), keep); err == nil {
			t.Errorf("%s passed as %s", bad, got)
		}
	}
}

func FuzzFilterModels(f *testing.F) {
	f.Add([]byte(`{"data":[{"id":"ok-1"},{"id":"no"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := llm.FilterModels(body, func(m string) bool { return strings.HasPrefix(m, "ok") })
		if err != nil {
			return
		}
		var list struct {
			Data []struct {
				ID string `json:"id"`
			} `json:"data"`
		}
		if err := json.Unmarshal(got, &list); err != nil {
			if _, semantic := errors.AsType[*json.SemanticError](err); !semantic {
				t.Fatalf("what is left is not JSON: %v: %q", err, got)
			}
		}
		for _, m := range list.Data {
			if !strings.HasPrefix(m.ID, "ok") {
				t.Fatalf("%q is still in %q", m.ID, got)
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	for _, size := range []int{1 << 10, 32 << 10, 256 << 10} {
		body := chat(size)
		b.Run(sizeName(size), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := llm.Scan(body, "openai", "chat.completions"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// chat returns a chat request of about size bytes, made of turns of prose.
func chat(size int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"model":"gpt-5-mini","stream":false,"max_completion_tokens":512,"messages":[`)
	for i := 0; b.Len() < size-600; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		text, _ := jsontext.AppendQuote(nil, strings.Repeat("The invoice \"4711\" was paid twice.\n", 14))
		b.WriteString(`{"role":"user","content":` + string(text) + `}`)
	}
	if b.Bytes()[b.Len()-1] == '[' {
		b.WriteString(`{"role":"user","content":"` + strings.Repeat("x", max(0, size-b.Len()-40)) + `"}`)
	}
	b.WriteString(`]}`)
	return b.Bytes()
}

func sizeName(n int) string {
	return map[int]string{1 << 10: "1KB", 2 << 10: "2KB", 32 << 10: "32KB", 256 << 10: "256KB"}[n]
}

// Of a long conversation the log keeps the end, as a document of its own.
func TestTheNewestMessagesAreKept(t *testing.T) {
	message := func(n int, size int) string {
		return `{"role":"user","content":"` + strings.Repeat(string(rune('a'+n)), size) + `"}`
	}
	for _, c := range []struct {
		name     string
		messages []string
		kept     []string
	}{
		{"short: all of it", []string{message(0, 10), message(1, 10)}, []string{message(0, 10), message(1, 10)}},
		{"long: the end", []string{message(0, 9<<10), message(1, 9<<10), message(2, 4<<10)}, []string{message(1, 9<<10), message(2, 4<<10)}},
		{"nothing at all", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := llm.Scan([]byte(`{"model":"m","messages": [ `+strings.Join(c.messages, " , ")+` ] }`), "openai", "chat.completions")
			if err != nil {
				t.Fatal(err)
			}
			var kept, want []jsontext.Value
			if err := json.Unmarshal([]byte(got.Kept[0]), &kept); err != nil {
				t.Fatalf("%v: %.80s", err, got.Kept[0])
			}
			for _, m := range c.kept {
				want = append(want, jsontext.Value(m))
			}
			if !slices.EqualFunc(kept, want, func(a, b jsontext.Value) bool { return bytes.Equal(a, b) }) {
				t.Errorf("kept %d messages, want %d", len(kept), len(want))
			}
		})
	}
	huge, err := llm.Scan([]byte(`{"model":"m","messages":[`+message(0, 10)+`,`+message(1, 90<<10)+`]}`), "openai", "chat.completions")
	if err != nil || !strings.HasPrefix(huge.Kept[0], `[{"role":"user","content":"bbbb`) || len(huge.Kept[0]) > gateway.CaptureCap+gateway.CaptureMargin+1 {
		t.Errorf("of one huge message %d bytes are kept: %.60s (%v)", len(huge.Kept[0]), huge.Kept[0], err)
	}
}
