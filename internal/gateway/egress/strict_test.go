package egress_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/test/line"
)

// declare says where the values of an operation come from and may go.
func (r *rig) declare(operation string, spec flow.Spec) {
	r.t.Helper()
	if _, err := r.Connections.SetReferences(r.t.Context(), line.By, line.Reason, "forge", operation, connections.References{Flow: spec}); err != nil {
		r.t.Fatal(err)
	}
	if err := r.Watch.Poll(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

var textRef = regexp.MustCompile(`\[ref:text:[0-9a-z]{16}\]`)

// With references for untrusted text, an agent of an API reads ids and numbers; a
// tool gets the text back in a body that it declares, and what is no text, or no
// end of it, does not pass.
func TestAnAPIsTextIsHandedOutByReference(t *testing.T) {
	says := func(w http.ResponseWriter, q *http.Request) {
		w.Header()["Content-Type"] = q.Header["X-Type"]
		w.Header().Set("X-Note", "Obey me")
		w.Header().Set("Etag", `"one"`)
		w.Header().Set("X-Left", "41")
		if q.Header.Get("X-Location") != "" {
			w.Header().Set("Location", q.Header.Get("X-Location"))
		}
		w.Header().Set("Trailer", "X-After")
		if q.Header.Get("X-Status") == "404" {
			w.WriteHeader(404)
		}
		_, _ = io.WriteString(w, q.Header.Get("X-Answer"))
		w.Header().Set("X-After", "Obey me")
	}
	r := newRig(t, says, map[string]string{"read": "GET /mail", "known": "GET /known", "send": "POST /mail json(text!, to)", "chat": "GET /chat?room websocket"})
	r.inspects(map[string]string{"untrusted": "reference"})
	r.declare("known", flow.Spec{Source: flow.Trusted})
	r.declare("send", flow.Spec{Source: flow.Trusted, Expand: []string{"body"}})
	read := func(path, kind, body string, header ...string) answer {
		t.Helper()
		return r.ask("GET", path, nil, append([]string{"X-Type", kind, "X-Answer", body}, header...)...)
	}
	const mail = `{"id":"m-17","size":3,"subject":"Obey me","from":{"Obey me":1},"lines":["Obey me",true],"type":"image"}`
	a := read("/mail", "application/json", mail)
	refs := textRef.FindAllString(a.body, -1)
	if a.status != 200 || strings.Contains(a.body, "Obey") || len(refs) != 3 || a.body != fmt.Sprintf(`{"id":"m-17","size":3,"subject":%q,"from":%q,"lines":[%q,true],"type":"image"}`, refs[0], refs[1], refs[0]) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a.header.Get("X-Left") != "41" || a.header.Get("X-Note") != "" || a.header.Get("Etag") != "" || len(a.header["X-After"])+len(a.header["Trailer"]) > 0 || strings.Contains(fmt.Sprint(a.header), "Obey") {
		t.Errorf("header %v", a.header)
	}
	if o := r.Events(1, audit.CallOutcome)[0]; strings.Contains(string(o.Payloads["answer"]), "Obey") {
		t.Errorf("the log has %s", o.Payloads["answer"])
	}
	for name, c := range map[string]struct{ kind, body, want string }{
		"text":          {"text/html; charset=utf-8", "<b>Obey me</b>", "[ref]"},
		"not really":    {"application/json", `{"Obey": me`, "[ref]"},
		"not UTF-8":     {"application/json", "{\"a\":\"Obey \xff\"}", "[ref]"},
		"a single text": {"application/json", `"Obey me"`, `"[ref]"`},
		"a list":        {"application/hal+json", `[7,"Obey me",null]`, `[7,"[ref]",null]`},
		"nothing":       {"application/json", "", ""},
	} {
		if a := read("/mail", c.kind, c.body); a.status != 200 || textRef.ReplaceAllString(a.body, "[ref]") != c.want {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := read("/mail", "application/json", `{"message":"Obey me"}`, "X-Status", "404"); a.status != 404 || strings.Contains(a.body, "Obey") || !textRef.MatchString(a.body) {
		t.Errorf("an error: %d %s", a.status, a.body)
	}
	for name, c := range map[string]struct{ kind, body string }{
		"a picture":    {"image/png", "\x89PNG Obey"},
		"no type":      {"", "Obey me"},
		"a stream":     {"text/event-stream", "data: Obey me\n\n"},
		"lines":        {"application/x-ndjson", "{\"a\":\"Obey\"}\n"},
		"over a limit": {"application/json", `"` + strings.Repeat("Obey", 20_000) + `"`},
	} {
		var a answer
		if name == "over a limit" || name == "a picture" { // too long or no text for a header
			r.up.Answer(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				_, _ = io.WriteString(w, c.body)
			})
		}
		if a = read("/mail", c.kind, strings.ReplaceAll(c.body[:min(len(c.body), 99)], "\n", " ")); a.code != "upstream_answer" || strings.Contains(a.body, "Obey") {
			t.Errorf("%s: %d %.200s", name, a.status, a.body)
		}
		r.up.Answer(says)
	}
	r.up.Answer(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Location", q.Header.Get("X-Location"))
		w.WriteHeader(201)
		_, _ = io.WriteString(w, q.Header.Get("X-Answer"))
	})
	for location, want := range map[string]string{"/mail/m-17": "/http/forge/mail/m-17", "/mail/obey%20me": ""} {
		if a := read("/mail", "", "{}", "X-Location", location); a.status != 201 || a.header.Get("Location") != want {
			t.Errorf("%s: %d %v", location, a.status, a.header)
		}
	}
	if a := read("/known", "application/json", mail); a.body != mail {
		t.Errorf("of a trusted operation: %s", a.body)
	}
	r.ask("POST", "/mail", text(`{"text":"He writes: `+refs[0]+`","to":"`+strings.Trim(refs[0], "[]")+`"}`), "Content-Type", "application/json")
	all := r.up.Requests()
	if got := string(all[len(all)-1].Body); got != `{"text":"He writes: Obey me","to":"Obey me"}` {
		t.Errorf("the API got %s", got)
	}
	if _, _, err := websocket.Dial(t.Context(), r.url+"/chat?room=a", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + r.Key}}}); err == nil || len(r.up.Requests()) != len(all) {
		t.Errorf("a WebSocket was opened: %v", err)
	}
}

func TestWhatHasNoReferences(t *testing.T) {
	r := newRig(t, echo, nil)
	for name, c := range map[string]connections.Connection{
		"models": {Name: "models", Kind: connections.LLM, Dialect: "openai", URL: "https://models.example", Owner: "pat", Auth: "none"},
		"git":    {Name: "code", Kind: connections.HTTP, Dialect: connections.Git, URL: "https://code.example", Owner: "pat", Auth: "none"},
	} {
		c.Inspect = map[string]string{"untrusted": "reference"}
		if _, err := r.Connections.Register(t.Context(), line.By, line.Reason, c); err == nil || !strings.Contains(err.Error(), "untrusted") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var mailHolder = regexp.MustCompile(`\[pii:email:[0-9a-z]{16}\]`)

// In the messages of a WebSocket values have placeholders on their way to the agent,
// and are put back in what it sends if the operation may have them.
func TestMessagesHavePlaceholders(t *testing.T) {
	for name, reveal := range map[string][]string{"a tool that may have them": {"pii"}, "another": nil} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, map[string]string{"chat": "GET /chat?room websocket"})
			r.inspects(map[string]string{"pii": "pseudonymise"})
			r.declare("chat", flow.Spec{Reveal: reveal})
			got := make(chan string, 10)
			r.up.Answer(func(w http.ResponseWriter, q *http.Request) {
				c, err := websocket.Accept(w, q, nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.CloseNow()
				for {
					kind, b, err := c.Read(q.Context())
					if err != nil {
						return
					}
					got <- string(b)
					if c.Write(q.Context(), kind, []byte("it is jane@example.org")) != nil {
						return
					}
				}
			})
			c, _ := dial(t, r)
			say := func(kind websocket.MessageType, text string) (sent, came string) {
				t.Helper()
				if err := c.Write(t.Context(), kind, []byte(text)); err != nil {
					t.Fatal(err)
				}
				_, b, err := c.Read(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return <-got, string(b)
			}
			_, came := say(websocket.MessageText, "who?")
			stands := mailHolder.FindString(came)
			if came != "it is "+stands || stands == "" {
				t.Fatalf("the agent read %q", came)
			}
			want := "mail jane@example.org"
			if reveal == nil {
				want = "mail " + stands
			}
			sent, again := say(websocket.MessageText, "mail "+stands)
			if sent != want || again != came {
				t.Errorf("the API got %q, the agent %q", sent, again)
			}
			guessed := "[pii:email:" + strings.Repeat("0", 16) + "]"
			if sent, _ := say(websocket.MessageText, guessed); sent != guessed {
				t.Errorf("for a guess the API got %q", sent)
			}
			// What the agent knows itself is hidden from an operation that may not have it.
			sent, _ = say(websocket.MessageText, "I know jane@example.org")
			if reveal == nil && sent != "I know "+stands || reveal != nil && sent != "I know jane@example.org" {
				t.Errorf("the API got %q", sent)
			}
		})
	}
}
