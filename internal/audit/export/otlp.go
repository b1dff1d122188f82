package export

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	collogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	coltrace "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	logs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/slim/otlp/trace/v1"

	"github.com/countersign/countersign/internal/audit"
)

// Bounds of what is sent about one event.
const (
	maxAttribute = 4 << 10 // bytes of one attribute's text
	maxValues    = 32      // of one attribute
	maxBody      = 64 << 10
)

// TraceID returns the trace of an event: its run, or the call alone if it is
// part of none. It is the same on every replica and every time.
func TraceID(ev *audit.Event) []byte {
	of := orElse(ev.Run, ev.Call)
	if of == "" {
		return nil
	}
	return digest("trace", of, 16)
}

func traceHex(ev *audit.Event) string { return hex.EncodeToString(TraceID(ev)) }

// SpanID returns the span of an event of a call: that of the call, if it was
// forwarded, so that intent and outcome find each other without a look-up; that
// of the event if it was not, since a held call may still be forwarded.
func SpanID(ev *audit.Event) []byte {
	switch ev.Type {
	case audit.CallIntent, audit.CallOutcome, audit.CallSettled:
		return digest("span", ev.Call, 8)
	case audit.CallDenied, audit.CallHeld, audit.CallRefused:
		return digest("span", ev.ID, 8)
	}
	return nil
}

func digest(what, of string, n int) []byte {
	sum := sha256.Sum256([]byte("countersign " + what + "\x00" + of))
	sum[0] |= 1 // all zero means none
	return sum[:n:n]
}

// attributes collects what is said about an event.
type attributes []*common.KeyValue

func (a *attributes) text(key, value string) {
	if value != "" {
		*a = append(*a, &common.KeyValue{Key: key, Value: stringValue(value, maxAttribute)})
	}
}

func (a *attributes) number(key string, n int64) {
	*a = append(*a, &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: n}}})
}

func (a *attributes) texts(key string, values []string) {
	if len(values) == 0 {
		return
	}
	list := &common.ArrayValue{}
	for _, v := range values[:min(len(values), maxValues)] {
		list.Values = append(list.Values, stringValue(v, maxAttribute/8))
	}
	*a = append(*a, &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_ArrayValue{ArrayValue: list}}})
}

func stringValue(s string, most int) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: text([]byte(s), most)}}
}

// LogRecord returns the record as an OTLP log record.
func (m *Mapper) LogRecord(r *audit.Record) *logs.LogRecord {
	ev := &r.Event
	a := m.about(ev)
	a.text(attrEventType, string(ev.Type))
	a.number(attrLane, r.Lane)
	a.number(attrSN, r.SN)
	a.text(attrUserAgent, ev.Client)
	a.text(attrObject, ev.Object)
	a.text(attrReason, ev.Reason)
	a.text(attrDigest, ev.Digest)
	a.text(attrDetail, string(ev.Detail))
	if ev.Outcome != nil {
		a = append(a, ended(ev)...)
	}
	a = append(a, m.payloads(r)...)
	at := uint64(nanos(ev.Time))
	number, name := severity(ev)
	return &logs.LogRecord{
		TimeUnixNano: at, ObservedTimeUnixNano: at, SeverityNumber: number, SeverityText: name, EventName: eventNamePrefix + string(ev.Type),
		Body: stringValue(message(ev), maxAttribute), Attributes: a, TraceId: TraceID(ev), SpanId: SpanID(ev),
	}
}

// nanos returns t in nanoseconds since 1970, which hold 1970 to 2262.
func nanos(t time.Time) int64 {
	if t.Year() < 1970 {
		return 0
	}
	return min(t.Unix(), math.MaxInt64/int64(time.Second)-maxMicros/1_000_000)*int64(time.Second) + int64(t.Nanosecond())
}

func severity(ev *audit.Event) (logs.SeverityNumber, string) {
	switch severityOf(ev) {
	case 5:
		return logs.SeverityNumber_SEVERITY_NUMBER_FATAL, "FATAL"
	case 4:
		return logs.SeverityNumber_SEVERITY_NUMBER_ERROR, "ERROR"
	case 2, 3:
		return logs.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	return logs.SeverityNumber_SEVERITY_NUMBER_INFO, "INFO"
}

// about is what log records and spans say alike: who, what and on whose rules.
func (m *Mapper) about(ev *audit.Event) attributes {
	a := make(attributes, 0, 32)
	a.text(attrEventID, ev.ID)
	a.text(attrActorKind, string(ev.Actor.Kind))
	switch ev.Actor.Kind {
	case audit.KindUser:
		a.text(attrUserID, ev.Actor.ID)
		a.text(attrUserName, ev.Actor.Name)
	case audit.KindAgent:
		a.text(attrAgentID, ev.Actor.ID)
	}
	for _, t := range [][2]string{
		{attrAgentName, ev.Agent}, {attrConversation, ev.Run}, {attrRun, ev.Run}, {attrCall, ev.Call}, {attrConnection, ev.Connection},
		{attrTool, ev.Tool}, {attrEffect, ev.Effect}, {attrOwner, ev.Owner}, {attrTeam, ev.Team}, {attrStage, ev.Stage},
		{attrCredential, ev.Credential}, {attrClientAddress, ev.Remote},
	} {
		a.text(t[0], t[1])
	}
	a.texts(attrLabels, ev.Labels)
	var chain []string
	for _, who := range ev.OnBehalfOf {
		chain = append(chain, orElse(who.Name, who.ID))
	}
	a.texts(attrBehalf, chain)
	if d := ev.Decision; d != nil {
		a.text(attrDecision, d.Effect)
		a.text(attrCode, d.Code)
		a.texts(attrDecidedBy, d.Policies)
		a.texts(attrGrants, d.Grants)
		a.text(attrDecided, d.Reason)
		a.text(attrPolicySet, d.Version)
	}
	if ev.Tool != "" {
		op := m.operation(ev)
		a.text(attrOperation, op.name)
		a.text(attrProvider, op.provider)
		a.text(attrMCPMethod, op.method)
		if op.name == operationTool {
			a.text(attrToolName, ev.Tool)
			a.text(attrToolType, toolTypeExtension)
			a.text(attrToolCallID, ev.Call)
		}
	}
	return a
}

// ended is what is said about how a call ended.
func ended(ev *audit.Event) attributes {
	o := ev.Outcome
	var a attributes
	a.text(attrOutcome, o.Status)
	a.text(attrOutcomeErr, o.Error)
	a.number(attrBytes, o.Bytes)
	a.number(attrMicros, o.Micros)
	switch {
	case o.Code >= 100 && o.Code < 600:
		a.number(attrHTTPStatus, int64(o.Code))
	case o.Code != 0:
		a.text(attrRPCStatus, strconv.Itoa(o.Code))
	}
	if o.Status != audit.Succeeded {
		a.text(attrErrorType, errorType(ev))
	}
	if u := o.Usage; u != nil {
		a.text(attrRequestModel, u.Model)
		a.text(attrResponseModel, u.Model)
		a.number(attrInputTokens, u.Input)
		a.number(attrOutputTokens, u.Output)
		a.number(attrCachedTokens, u.Cached)
	}
	return a
}

func errorType(ev *audit.Event) string {
	if o := ev.Outcome; o != nil {
		if o.Status == audit.Failed && o.Usage == nil && (o.Code == 0 || o.Code == 200) {
			return errorTool // the protocol went well, the tool did not
		}
		return o.Status
	}
	if ev.Decision != nil {
		return orElse(ev.Decision.Effect, "deny")
	}
	return orElse(detailOf(ev).Code, "refused")
}

// operation is a call in the words of the conventions.
type operation struct {
	name, provider, method string
	span                   string // what the span's name begins with
}

// models maps the endpoints of model providers.
var models = map[string]operation{
	"chat.completions":      {name: operationChat, provider: providerOpenAI},
	"responses":             {name: operationChat, provider: providerOpenAI},
	"embeddings":            {name: operationEmbed, provider: providerOpenAI},
	"messages":              {name: operationChat, provider: providerAnthropic},
	"messages.count_tokens": {name: "count_tokens", provider: providerAnthropic},
	"models":                {name: "list_models"},
}

// protocol begins the names of tools that stand for MCP's own methods.
const protocol = "mcp:"

func (m *Mapper) operation(ev *audit.Event) operation {
	kind := ""
	if m.Kind != nil {
		kind = m.Kind(ev.Connection)
	}
	op, model := models[ev.Tool]
	method, own := strings.CutPrefix(ev.Tool, protocol)
	switch {
	case model && (kind == "llm" || kind == ""):
	case own:
		op = operation{method: method}
	case kind == "mcp" || kind == "":
		op = operation{name: operationTool, method: methodToolsCall}
	case kind == "retrieval":
		op = operation{name: operationRetrieval}
	default:
		op = operation{name: operationTool}
	}
	op.span = orElse(op.method, op.name)
	return op
}

func provider(tool string) string { return models[tool].provider }

// Span returns the span of a call: of one that was forwarded from its intent
// and its outcome; of one that was not from its one event, outcome being nil.
// Intent may be nil when it is not to be found; the span then has no beginning
// but the outcome's.
func (m *Mapper) Span(intent, outcome *audit.Record) *trace.Span {
	r := intent
	if r == nil {
		r = outcome
	}
	ev := &r.Event
	a := m.about(ev)
	a.text(attrUserAgent, ev.Client)
	start := nanos(ev.Time)
	end := start
	status := &trace.Status{}
	switch {
	case outcome != nil:
		o := outcome.Event.Outcome
		if o == nil {
			o = &audit.Outcome{Status: audit.Unknown}
		}
		if intent == nil {
			start -= min(max(o.Micros, 0), maxMicros) * 1000
		}
		end = start + min(max(o.Micros, 0), maxMicros)*1000
		a = append(a, ended(&audit.Event{Outcome: o, Tool: ev.Tool})...)
		if o.Status != audit.Succeeded {
			status.Code, status.Message = trace.Status_STATUS_CODE_ERROR, text([]byte(orElse(o.Error, o.Status)), 1024)
		}
		if intent != nil {
			a = append(a, m.payloads(intent)...)
		}
		a = append(a, m.payloads(outcome)...)
	case ev.Type != audit.CallHeld:
		a.text(attrErrorType, errorType(ev))
		a = append(a, m.payloads(r)...)
		status.Code, status.Message = trace.Status_STATUS_CODE_ERROR, text([]byte(orElse(outcomeOf(ev), detailOf(ev).Reason, string(ev.Type))), 1024)
	}
	return &trace.Span{
		TraceId: TraceID(ev), SpanId: SpanID(ev), Name: m.spanName(ev, outcome), Kind: trace.Span_SPAN_KIND_CLIENT,
		StartTimeUnixNano: uint64(max(start, 0)), EndTimeUnixNano: uint64(max(end, start, 0)), Attributes: a, Status: status,
	}
}

// maxMicros is the longest that a span is said to have lasted: a year.
const maxMicros = 365 * 24 * 3600 * 1_000_000

// spanName is low in variety: the method or operation and what it is done to.
func (m *Mapper) spanName(ev *audit.Event, outcome *audit.Record) string {
	if ev.Tool == "" {
		return string(ev.Type)
	}
	op := m.operation(ev)
	target := ev.Tool
	if op.name == "" || op.provider != "" || strings.HasPrefix(ev.Tool, protocol) {
		target = ""
		if outcome != nil && outcome.Event.Outcome != nil && outcome.Event.Outcome.Usage != nil {
			target = outcome.Event.Outcome.Usage.Model
		}
	}
	return text([]byte(strings.TrimSpace(op.span+" "+target)), 256)
}

// payloads are the bodies that stand beside an event, if they are wanted.
func (m *Mapper) payloads(r *audit.Record) attributes {
	var a attributes
	if !m.Payloads {
		return nil
	}
	for _, c := range r.Event.Payloads {
		b, ok := r.Payloads[c.Name]
		if !ok {
			continue
		}
		key := attrPayload + c.Name
		switch c.Name {
		case "arguments":
			key = attrToolArguments
		case "result":
			key = attrToolResult
		}
		a = append(a, &common.KeyValue{Key: key, Value: stringValue(string(b), maxBody)})
	}
	return a
}

func (m *Mapper) resource() *resource.Resource {
	var a attributes
	a.text(attrServiceName, serviceName)
	a.text(attrServiceVersion, m.Version)
	return &resource.Resource{Attributes: a}
}

func (m *Mapper) scope() *common.InstrumentationScope {
	return &common.InstrumentationScope{Name: scopeName, Version: m.Version}
}

// Logs returns one request that carries records.
func (m *Mapper) Logs(records []*logs.LogRecord) *collogs.ExportLogsServiceRequest {
	return &collogs.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
		Resource: m.resource(), SchemaUrl: schemaURL,
		ScopeLogs: []*logs.ScopeLogs{{Scope: m.scope(), SchemaUrl: schemaURL, LogRecords: slices.Clone(records)}},
	}}}
}

// Traces returns one request that carries spans.
func (m *Mapper) Traces(spans []*trace.Span) *coltrace.ExportTraceServiceRequest {
	return &coltrace.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
		Resource: m.resource(), SchemaUrl: schemaURL,
		ScopeSpans: []*trace.ScopeSpans{{Scope: m.scope(), SchemaUrl: schemaURL, Spans: slices.Clone(spans)}},
	}}}
}
