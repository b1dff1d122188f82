package gateway

import (
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
)

// Limits on what is kept of a call's content.
const (
	// CaptureCap is how many bytes of a prompt or an answer the log keeps, unless
	// the connection's capture is full.
	CaptureCap = 16 << 10
	// CaptureFull is the same where it is full.
	CaptureFull = audit.MaxPayload
	// CaptureMargin is how many bytes beyond that a front should hand over when
	// there are more, so that a secret on the border is seen whole before the cut.
	CaptureMargin = 8 << 10
)

// CaptureLimit returns how many bytes the log keeps of a prompt or an answer of
// a connection.
func CaptureLimit(c connections.Connection) int {
	if c.Capture == connections.CaptureFull {
		return CaptureFull
	}
	return CaptureCap
}

// SubjectHeader is how an agent says which person a call is about. What the
// tool declares about its arguments goes before it. It never reaches an upstream.
const SubjectHeader = "X-Countersign-Subject"

// ErrSubject refuses a call whose subject cannot be what erases its payloads.
var ErrSubject = fault.New(fault.Invalid, "bad_subject", "X-Countersign-Subject must name one person, in at most 512 bytes of UTF-8 without control characters; or leave it out")

// SubjectOf returns the values of SubjectHeader, for Incoming.
func SubjectOf(h http.Header) []string { return h.Values(SubjectHeader) }

// saidSubject checks what an agent said about whom a call is about.
func saidSubject(values []string) (string, error) {
	if len(values) == 0 {
		return "", nil
	}
	s := strings.TrimSpace(values[0])
	if len(values) > 1 || s == "" || len(s) > connections.MaxSubject || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return "", ErrSubject
	}
	return s, nil
}

// about fills in whom a call is about and what it touches.
func (c *Call) about(said string) {
	c.objects = c.Tool.References.ObjectsOf(c.Args)
	if c.subject = c.Tool.References.SubjectOf(c.Args); c.subject == "" {
		c.subject = said
	}
}

func (g *Gateway) intentPayloads(call *Call) []audit.Payload {
	payloads := make([]audit.Payload, 0, 1+len(call.Prompt))
	if len(call.Args) > len(noArgs) {
		payloads = append(payloads, audit.Payload{Name: "arguments", Body: call.Args})
	}
	payloads = append(payloads, call.Prompt...)
	return g.captured(call, payloads)
}

// captured makes payloads of a call what its connection wants kept, under the
// key of whom the call is about.
func (g *Gateway) captured(call *Call, payloads []audit.Payload) []audit.Payload {
	for i := range payloads {
		p := &payloads[i]
		p.Subject, p.Level = call.subject, audit.Level(call.Connection.Capture)
		if p.Size == 0 {
			p.Size = int64(len(p.Body))
		}
		if p.Level != audit.Digest {
			g.cut(p, CaptureLimit(call.Connection))
		}
	}
	return payloads
}

// personal is a redactor that also knows personal data.
type personal interface {
	RedactPersonal(b []byte) []byte
}

// cut shortens a payload to limit. It redacts before it cuts: a secret on the
// border would otherwise leave its first half. What is dropped after redaction
// is a margin longer than any secret.
func (g *Gateway) cut(p *audit.Payload, limit int) {
	if len(p.Body) <= limit {
		return
	}
	body := p.Body[:min(len(p.Body), limit+CaptureMargin)]
	whole := int64(len(body)) == p.Size
	keep := g.o.Redactor.Redact(body)
	if more, ok := g.o.Redactor.(personal); ok && p.Level != audit.Full {
		keep = more.RedactPersonal(keep)
	}
	if !whole || len(keep) > limit {
		if int64(len(p.Body)) == p.Size {
			p.Whole = p.Body
		}
		keep = keep[:max(0, len(keep)-CaptureMargin)]
		keep = keep[:min(len(keep), limit)]
	}
	p.Body = keep
}
