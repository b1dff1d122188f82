package export

import (
	"context"
	"fmt"

	collogs "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	coltrace "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	logs "go.opentelemetry.io/proto/slim/otlp/logs/v1"
	trace "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/internal/audit"
)

// signal is one of the things that OTLP carries.
type signal struct {
	path   string // of OTLP over HTTP
	method string // of OTLP over gRPC
}

var (
	logSignal   = signal{"/v1/logs", "/opentelemetry.proto.collector.logs.v1.LogsService/Export"}
	traceSignal = signal{"/v1/traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"}
)

// poster sends one request and decodes its answer. Its errors are *refusal or
// *later.
type poster interface {
	post(ctx context.Context, to signal, req, resp proto.Message) error
	close()
}

// newPoster returns how t is spoken to.
func newPoster(t *Target) (poster, error) {
	if t.Protocol == GRPC {
		return newGRPC(t)
	}
	return newHTTP(t)
}

// collector sends to an OpenTelemetry collector.
type collector struct {
	f    *follower
	m    *Mapper
	post poster

	// intents are those whose outcome has not been sent, so that few must be
	// looked up.
	intents map[string]*audit.Record
}

func (c *collector) open(context.Context) error { return nil }

func (c *collector) idle(context.Context) error { return nil }

func (c *collector) close() { c.post.close() }

// send sends logs, then spans. If only the first arrives, both are sent again,
// and recognised by their identifiers.
func (c *collector) send(ctx context.Context, recs []audit.Record) (delivery, error) {
	var d delivery
	if !c.f.t.NoLogs {
		records := make([]*logs.LogRecord, len(recs))
		for i := range recs {
			records[i] = c.m.LogRecord(&recs[i])
		}
		var resp collogs.ExportLogsServiceResponse
		if err := c.post.post(ctx, logSignal, c.m.Logs(records), &resp); err != nil {
			return d, err
		}
		ps := resp.GetPartialSuccess()
		if err := d.partial("log records", ps.GetRejectedLogRecords(), len(records), ps.GetErrorMessage()); err != nil {
			return d, err
		}
	}
	if c.f.t.NoTraces {
		return d, nil
	}
	spans, err := c.spans(ctx, recs)
	if err != nil || len(spans) == 0 {
		return d, err
	}
	var resp coltrace.ExportTraceServiceResponse
	if err := c.post.post(ctx, traceSignal, c.m.Traces(spans), &resp); err != nil {
		return d, err
	}
	ps := resp.GetPartialSuccess()
	return d, d.partial("spans", ps.GetRejectedSpans(), len(spans), ps.GetErrorMessage())
}

// partial notes what a target threw away of what it took (OTLP, partial
// success: it must not be sent again). One that throws everything away has
// refused it.
func (d *delivery) partial(what string, rejected int64, sent int, why string) error {
	if rejected <= 0 {
		if why != "" {
			d.note = "the target warns: " + why
		}
		return nil
	}
	if rejected >= int64(sent) {
		return &refusal{problem: fmt.Sprintf("the target threw away all %d %s: %s", sent, what, orElse(why, "it does not say why")), content: true}
	}
	d.rejected += rejected
	d.note = fmt.Sprintf("the target threw away %d of %d %s: %s", rejected, sent, what, orElse(why, "it does not say why"))
	return nil
}

// Bounds of what is remembered of calls in flight.
const (
	maxIntents      = 8192
	maxIntentsLarge = 64 // with payloads
)

// spans returns the spans that end in recs.
func (c *collector) spans(ctx context.Context, recs []audit.Record) ([]*trace.Span, error) {
	most := maxIntents
	if c.m.Payloads {
		most = maxIntentsLarge
	}
	var spans []*trace.Span
	for i := range recs {
		r := &recs[i]
		switch r.Event.Type {
		case audit.CallIntent:
			if len(c.intents) >= most {
				clear(c.intents) // they are looked up
			}
			keep := *r // alone, not with the whole batch
			c.intents[r.Event.Call] = &keep
		case audit.CallOutcome:
			intent, err := c.intent(ctx, r)
			if err != nil {
				return nil, err
			}
			spans = append(spans, c.m.Span(intent, r))
		case audit.CallDenied, audit.CallHeld, audit.CallRefused:
			spans = append(spans, c.m.Span(r, nil))
		}
	}
	return spans, nil
}

// intent returns what an outcome answers, nil if the log does not hold it.
func (c *collector) intent(ctx context.Context, outcome *audit.Record) (*audit.Record, error) {
	if in := c.intents[outcome.Event.Call]; in != nil {
		return in, nil
	}
	found, err := c.f.s.log.List(ctx, audit.Query{Call: outcome.Event.Call, Types: []audit.Type{audit.CallIntent}, Limit: 1, Payloads: c.m.Payloads})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}
