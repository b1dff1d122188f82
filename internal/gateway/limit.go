package gateway

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/policy"
)

// CodeLimited is the code of a call that its tool's rate does not allow now.
const CodeLimited = "rate_limited"

// ErrResult ends an answer that is longer than its tool's limit.
var ErrResult = fault.New(fault.Upstream, "result_too_large", "the answer is longer than what is allowed of this tool; the call was made. Ask for less")

// Rates counts calls of tools; connections.Service does.
type Rates interface {
	Take(ctx context.Context, t connections.Tool, agent string, sure bool) (time.Duration, error)
}

// limit refuses a call that would go out now, if its tool is called too often.
// One that people decide about is not refused: they allowed exactly it. It is
// counted when it goes out (granted).
func (g *Gateway) limit(ctx context.Context, call *Call, v verdict) verdict {
	if v.effect != policy.Allow || g.o.Rates == nil || len(call.Tool.References.Limits) == 0 || call.resume != nil && call.resume.Approval != "" {
		return v
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ledgerWait)
	defer cancel()
	retry, err := g.o.Rates.Take(ctx, call.Tool, call.Who.Agent.ID, false)
	switch {
	case err != nil:
		r := Refuse(err)
		return slowed(v, r.Code, r.Reason, r.Kind, retryLedger)
	case retry > 0:
		return slowed(v, CodeLimited, "this tool is called too often; try again later", fault.Limited, retry)
	}
	return v
}

// granted counts a call that people approved, before the approval is used up.
func (g *Gateway) granted(ctx context.Context, call *Call) error {
	if g.o.Rates == nil || len(call.Tool.References.Limits) == 0 {
		return nil
	}
	_, err := g.o.Rates.Take(ctx, call.Tool, call.Who.Agent.ID, true)
	return err
}

// sized bounds an answer by its tool's limit.
func sized(call *Call, resp *http.Response) error {
	most := call.Tool.Limits().Result
	switch {
	case len(call.Tool.References.Limits) == 0 || most == 0:
		return nil
	case resp.ContentLength > most:
		return ErrResult
	}
	resp.Body = &bounded{resp.Body, most}
	return nil
}

// bounded is a body that ends with ErrResult when it is too long.
type bounded struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader. Nothing of what is too much passes.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, ErrResult
	}
	return n, err
}
