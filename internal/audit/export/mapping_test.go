package export_test

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/export"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 123456000, time.UTC)

// samples are events as the rooms record them.
func samples() []audit.Event {
	agent := audit.Actor{Kind: audit.KindAgent, ID: "agt_1", Name: "invoice-checker"}
	call := audit.Event{Actor: agent, Agent: "invoice-checker", Owner: "ada", Team: "finance", Stage: "production", Credential: "key_1",
		Run: "run_1", Call: "call_1", Connection: "ledger", Tool: "pay_invoice", Effect: "write", Digest: "ab", Remote: "192.0.2.7", Client: "curl/8",
		Labels: []string{"pii"}, OnBehalfOf: []audit.Actor{audit.Person("usr_1", "ada")},
		Decision: &audit.Decision{Effect: "allow", Policies: []string{"limits"}, Grants: []string{"g"}, Version: "v1", Micros: 12}}
	with := func(t audit.Type, change func(*audit.Event)) audit.Event {
		ev := call
		ev.Type = t
		if change != nil {
			change(&ev)
		}
		return ev
	}
	model := &audit.Usage{Model: "gpt-5", Input: 10, Output: 5, Cached: 2}
	return []audit.Event{
		with(audit.CallIntent, nil),
		with(audit.CallOutcome, func(ev *audit.Event) {
			ev.Decision, ev.Outcome = nil, &audit.Outcome{Status: audit.Succeeded, Code: 200, Micros: 1500, Bytes: 10}
		}),
		with(audit.CallOutcome, func(ev *audit.Event) {
			ev.Connection, ev.Tool, ev.Effect = "openai", "chat.completions", "read"
			ev.Decision, ev.Outcome = nil, &audit.Outcome{Status: audit.Succeeded, Code: 200, Micros: 1500, Usage: model}
		}),
		with(audit.CallOutcome, func(ev *audit.Event) {
			ev.Decision, ev.Outcome = nil, &audit.Outcome{Status: audit.Broken, Code: -32603, Error: "connection reset"}
		}),
		with(audit.CallOutcome, func(ev *audit.Event) { ev.Decision, ev.Outcome = nil, &audit.Outcome{Status: audit.Unknown} }),
		with(audit.CallSettled, func(ev *audit.Event) { ev.Decision, ev.Outcome = nil, &audit.Outcome{Status: audit.Failed} }),
		with(audit.CallDenied, func(ev *audit.Event) { ev.Decision = &audit.Decision{Effect: "deny", Reason: "over the limit"} }),
		with(audit.CallHeld, func(ev *audit.Event) {
			ev.Decision = &audit.Decision{Code: "approval_pending", Effect: "hold", Reason: "needs two"}
		}),
		with(audit.CallRefused, func(ev *audit.Event) {
			ev.Decision, ev.Tool, ev.Call, ev.Run = nil, "", "", ""
			ev.Detail = []byte(`{"front":"llm","code":"bad_json","reason":"not JSON"}`)
		}),
		{Type: audit.AuthRefused, Actor: audit.Actor{Kind: audit.KindAgent}, Remote: "192.0.2.7", Detail: []byte(`{"code":"no_credential","network":"192.0.2.0/24","count":12}`)},
		{Type: audit.AuthRefused, Actor: audit.Person("", ""), Object: "login"},
		{Type: audit.UpstreamUsed, Actor: audit.System, Connection: "ledger", Tool: "mcp:tools/list", Reason: "discovery"},
		{Type: "user.logged_in", Actor: audit.Person("usr_1", "ada"), Object: "user/ada", Remote: "not an address"},
		{Type: "agent.created", Actor: audit.Person("usr_1", "ada"), Agent: "invoice-checker", Object: "agent/invoice-checker", Reason: "new"},
		{Type: "agent.key_issued", Actor: audit.Person("usr_1", "ada"), Object: "key/key_1", Agent: "invoice-checker"},
		{Type: "grant.given", Actor: audit.Person("usr_1", "ada"), Agent: "invoice-checker", Object: "grant/pay", Connection: "ledger", Detail: []byte(`{"tools":["pay_invoice"]}`)},
		{Type: "run.started", Actor: audit.Person("usr_1", "ada"), Agent: "invoice-checker", Run: "run_1"},
		{Type: "policy.updated", Actor: audit.Person("usr_1", "ada"), Object: "policy/limits", Reason: "lower"},
		{Type: "finding.opened", Actor: audit.System, Object: "tool/ledger/pay_invoice", Detail: []byte(`{"finding":"fnd_1","rule":"tool.drifted","severity":"high","title":"t","detail":"d"}`)},
		{Type: "finding.closed", Actor: audit.Person("usr_1", "ada"), Object: "tool/ledger/pay_invoice", Reason: "seen", Detail: []byte(`{"finding":7,"severity":["odd"]}`)},
		{Type: "never.heard_of", Actor: audit.System},
		{Type: "log.key_rotated", Actor: audit.Person("usr_1", "ada"), Object: "log"},
	}
}

func record(t testing.TB, n int, ev audit.Event) audit.Record {
	t.Helper()
	ev.Schema, ev.Time = audit.Schema, noon.Add(time.Duration(n)*time.Millisecond)
	ev.ID = fmt.Sprintf("evt_%026d", n)
	raw, err := json.Marshal(ev)
	if err != nil {
		t.Fatal(err)
	}
	return audit.Record{Event: ev, Lane: 3, SN: int64(n + 1), Raw: raw}
}

func TestOCSFIsWhatTheSchemaAllows(t *testing.T) {
	s := readSchema(t)
	m := &export.Mapper{Version: "1.2.3"}
	want := map[string]int{}
	for i, ev := range samples() {
		r := record(t, i, ev)
		line, err := m.OCSF(&r)
		if err != nil {
			t.Fatal(err)
		}
		if p := s.check(line); len(p) > 0 {
			t.Errorf("%s: %v\n%s", ev.Type, p, line)
		}
		if bytes.ContainsAny(line, "\n\r") {
			t.Errorf("%s is more than a line", ev.Type)
		}
		var o struct {
			ClassUID int `json:"class_uid"`
			Unmapped struct{ Event jsontext.Value }
			Metadata struct{ UID string }
		}
		if err := json.Unmarshal(line, &o, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(o.Unmapped.Event, r.Raw) || o.Metadata.UID != r.Event.ID {
			t.Errorf("%s: the event is not in it as the log holds it: %s", ev.Type, o.Unmapped.Event)
		}
		want[fmt.Sprint(o.ClassUID)]++
	}
	for _, class := range []string{"6003", "3002", "3001", "2004"} {
		if want[class] == 0 {
			t.Errorf("no sample is of class %s", class)
		}
	}
}

// The check itself must be able to fail.
func TestTheSchemaCheckFindsMistakes(t *testing.T) {
	s := readSchema(t)
	r := record(t, 0, samples()[0])
	line, err := (&export.Mapper{}).OCSF(&r)
	if err != nil {
		t.Fatal(err)
	}
	for old, now := range map[string]string{
		`"severity_id":1`: `"severity_id":42`, `"class_uid":6003`: `"class_uid":6002`, `"operation"`: `"operatoin"`, `"api":`: `"apx":`,
		`"time":`: `"tyme":`, `"activity_id":3`: `"activity_id":"3"`, `"1.8.0"`: `"1.7.0"`, `,"security_control"`: ``,
	} {
		if bad := strings.Replace(string(line), old, now, 1); bad == string(line) || len(s.check([]byte(bad))) == 0 {
			t.Errorf("%s for %s is not noticed: %s", now, old, bad)
		}
	}
}

func TestWhatHappenedIsSaid(t *testing.T) {
	m := &export.Mapper{}
	for i, ev := range samples() {
		r := record(t, i, ev)
		line, err := m.OCSF(&r)
		if err != nil {
			t.Fatal(err)
		}
		var want string
		switch {
		case ev.Type == audit.CallDenied:
			want = `"status":"Failure","status_code":"denied","status_detail":"over the limit"`
		case ev.Type == audit.CallHeld:
			want = `"disposition":"Delayed"`
			if !strings.Contains(string(line), `"status_code":"approval_pending"`) {
				t.Errorf("the code of the refusal is not said: %s", line)
			}
		case ev.Type == audit.AuthRefused && ev.Detail != nil:
			want = `"status_code":"no_credential"`
		case ev.Type == "agent.created":
			want = `"user":{"name":"invoice-checker","type_id":4`
		case ev.Type == "grant.given":
			want = `"activity_name":"Attach Policy"`
		case ev.Type == "finding.opened":
			want = `"severity_id":4`
		case ev.Outcome != nil && ev.Outcome.Usage != nil:
			want = `"ai_model":{"name":"gpt-5","ai_provider":"openai"}`
		case ev.Type == "never.heard_of":
			want = `"activity_id":99,"activity_name":"never.heard_of"`
		case ev.Type == "policy.updated":
			want = `"activity_name":"Update"`
		}
		if !strings.Contains(string(line), want) {
			t.Errorf("%s: no %s in\n%s", ev.Type, want, line)
		}
	}
}

func TestPayloadsStayUnlessAskedFor(t *testing.T) {
	r := record(t, 0, samples()[0])
	r.Event.Payloads = []audit.Commitment{{Name: "arguments", Digest: "aa", Size: 5}, {Name: "erased"}}
	r.Payloads = map[string][]byte{"arguments": []byte("IBAN DE89\xff"), "stray": []byte("not committed")}
	forms := func(m *export.Mapper) string {
		line, err := m.OCSF(&r)
		if err != nil {
			t.Fatal(err)
		}
		return string(line) + m.LogRecord(&r).String() + m.Span(&r, &r).String()
	}
	if got := forms(&export.Mapper{}); strings.Contains(got, "IBAN") {
		t.Errorf("a payload left: %s", got)
	}
	got := forms(&export.Mapper{Payloads: true})
	if strings.Count(got, "IBAN") != 4 || strings.Contains(got, "stray") {
		t.Errorf("%s", got)
	}
}

func TestSpansAreOfCallsAndAlwaysTheSame(t *testing.T) {
	m := &export.Mapper{Kind: func(c string) string { return map[string]string{"ledger": "mcp", "openai": "llm"}[c] }}
	ss := samples()
	intent, outcome := record(t, 0, ss[0]), record(t, 1, ss[1])
	span := m.Span(&intent, &outcome)
	again := (&export.Mapper{Kind: m.Kind}).Span(&intent, &outcome)
	if !proto.Equal(span, again) || len(span.TraceId) != 16 || len(span.SpanId) != 8 {
		t.Error("the same call is another span")
	}
	if !bytes.Equal(span.TraceId, m.LogRecord(&outcome).TraceId) || !bytes.Equal(span.SpanId, m.LogRecord(&outcome).SpanId) || !bytes.Equal(span.SpanId, m.LogRecord(&intent).SpanId) {
		t.Error("log records and span of a call do not name each other")
	}
	if span.Name != "tools/call pay_invoice" || span.EndTimeUnixNano-span.StartTimeUnixNano != 1_500_000 || span.StartTimeUnixNano != uint64(noon.UnixNano()) {
		t.Errorf("%v", span)
	}
	denied, held := record(t, 2, ss[6]), record(t, 3, ss[7])
	if d := m.Span(&denied, nil); bytes.Equal(d.SpanId, span.SpanId) || d.Status.Message != "over the limit" || !bytes.Equal(d.TraceId, span.TraceId) {
		t.Errorf("%v", d)
	}
	if h := m.Span(&held, nil); h.Status.GetCode() != 0 {
		t.Errorf("a held call has not failed: %v", h)
	}
	chat := record(t, 4, ss[2])
	if c := m.Span(nil, &chat); c.Name != "chat gpt-5" || c.EndTimeUnixNano != uint64(chat.Event.Time.UnixNano()) || c.StartTimeUnixNano != c.EndTimeUnixNano-1_500_000 {
		t.Errorf("without its intent: %v", c)
	}
	if got := m.Span(&outcome, &outcome).String(); strings.Contains(got, "never") {
		t.Error(got)
	}
}

func TestAttributesAreBounded(t *testing.T) {
	ev := samples()[0]
	ev.Detail = []byte(`{"long":"` + strings.Repeat("ä", 100_000) + `"}`)
	ev.Reason = strings.Repeat("x\u202e", 50_000)
	for range 1000 {
		ev.Labels = append(ev.Labels, strings.Repeat("l", 9_000))
	}
	r := record(t, 0, ev)
	m := &export.Mapper{}
	rec := m.LogRecord(&r)
	if n := proto.Size(rec); n > 64<<10 {
		t.Errorf("%d bytes about one event", n)
	}
	for _, a := range rec.Attributes {
		if s := a.GetValue().GetStringValue(); len(s) > 4<<10 || !utf8.ValidString(s) {
			t.Errorf("%s has %d bytes", a.Key, len(s))
		}
		if a.Key == "countersign.detail" && !strings.HasSuffix(a.GetValue().GetStringValue(), "ä…") {
			t.Errorf("cut through a character: %q", a.GetValue().GetStringValue()[4080:])
		}
	}
}

// Whatever events say, the mappings make what receivers can read.
func FuzzMapping(f *testing.F) {
	for _, ev := range samples() {
		b, err := json.Marshal(ev)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte("payload"))
	}
	f.Add([]byte(`{"type":"call.outcome","time":"9999-12-31T23:59:59Z","outcome":{"micros":9223372036854775807,"code":-1}}`), []byte{0xff})
	f.Add([]byte(`{"type":"finding.opened","time":"0001-01-01T00:00:00Z","detail":{"severity":1e999,"count":1e30}}`), []byte{})
	s := readSchema(f)
	f.Fuzz(func(t *testing.T, raw, payload []byte) {
		ev, err := audit.DecodeRecord(raw)
		if err != nil {
			return
		}
		canonical, err := json.Marshal(ev)
		if err != nil {
			return
		}
		r := audit.Record{Event: ev, Raw: canonical, Payloads: map[string][]byte{}}
		for _, c := range ev.Payloads {
			r.Payloads[c.Name] = payload
		}
		m := &export.Mapper{Payloads: true}
		line, err := m.OCSF(&r)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.check(line) {
			if ev.ID != "" && ev.Type != "" {
				t.Errorf("%s\n%s", p, line)
			}
		}
		for _, msg := range []proto.Message{m.LogRecord(&r), m.Span(&r, &r), m.Span(nil, &r), m.Span(&r, nil)} {
			if _, err := proto.Marshal(msg); err != nil {
				t.Fatal(err)
			}
		}
		if span := m.Span(&r, &r); span.EndTimeUnixNano < span.StartTimeUnixNano {
			t.Errorf("ends before it begins: %v", span)
		}
	})
}
