package gateway

import (
	"bytes"
	"context"

	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/pseudonyms"
)

// Pseudonyms give out what stands for values, and the values for it;
// pseudonyms.Service is one.
type Pseudonyms interface {
	For(ctx context.Context, a pseudonyms.Agent, label, rule string, value []byte) (string, error)
	Reveal(ctx context.Context, a pseudonyms.Agent, labels []string, b []byte) ([]byte, error)
	Refer(ctx context.Context, a pseudonyms.Agent, text string) (string, error)
	Expand(ctx context.Context, a pseudonyms.Agent, text string) (string, error)
}

func pseudonymous(call *Call) pseudonyms.Agent {
	return pseudonyms.Agent{ID: call.Who.Agent.ID, Name: call.Who.Agent.Name}
}

// inPlace says what stands for what is found in a call: a placeholder where its
// connection says so, else a marker. Of a secret that we hold ourselves, and of
// what is not the same text wherever it stands, there is no placeholder. Nil
// writes markers alone.
func (g *Gateway) inPlace(call *Call, a actions) func(inspection.Finding, []byte) string {
	if a.stand == 0 || g.o.Pseudonyms == nil || call.Who.Agent.Name == "" {
		return nil
	}
	return func(f inspection.Finding, b []byte) string {
		labels := (f.Kind & a.stand).Labels()
		if f.Kind&a.redact != 0 || len(labels) != 1 || f.Rule == inspection.KnownRule || !pseudonyms.Fit(b) {
			return inspection.Mark(f.Rule)
		}
		ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
		defer cancel()
		s, err := g.o.Pseudonyms.For(ctx, pseudonymous(call), labels[0], f.Rule, bytes.Clone(b))
		if err != nil {
			g.o.Logger.Warn("a placeholder could not be kept; a marker stands instead", "call", call.ID, "error", err)
			return inspection.Mark(f.Rule)
		}
		return s
	}
}

// reveal puts values back in place of the placeholders in a call of a tool that may
// have them. What is decided about, recorded and sent has the values.
func (g *Gateway) reveal(call *Call) error {
	labels := call.Tool.References.Flow.Reveal
	some := len(labels) > 0 && pseudonyms.In(call.Request.Body, labels) || len(call.Tool.References.Flow.Expand) > 0 && bytes.Contains(call.Request.Body, []byte("ref:"))
	if g.o.Pseudonyms == nil || !some || call.Reread == nil || call.Who.Agent.Name == "" {
		return nil
	}
	given := call.Args
	var failed error
	call.revealed = func(b []byte) []byte {
		ctx, cancel := context.WithTimeout(context.Background(), ledgerWait)
		defer cancel()
		out, err := g.o.Pseudonyms.Reveal(ctx, pseudonymous(call), labels, b)
		if err == nil {
			out, err = g.expand(call, out)
		}
		if err != nil {
			failed = err
			return b
		}
		return out
	}
	if err := call.Reread(call.revealed); err != nil {
		return err
	}
	call.given = given
	return failed
}

// revealIn puts values back in a message of an upgraded call, as reveal does in a
// body.
func (g *Gateway) revealIn(ctx context.Context, call *Call, m *Message) error {
	labels := call.Tool.References.Flow.Reveal
	if g.o.Pseudonyms == nil || !m.Text || m.Control || len(labels) == 0 || !pseudonyms.In(m.Body, labels) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ledgerWait)
	defer cancel()
	out, err := g.o.Pseudonyms.Reveal(ctx, pseudonymous(call), labels, m.Body)
	if err == nil {
		m.Body = out
	}
	return err
}

// meant returns a text of a call with the values in place of the placeholders that
// its connection gives out: where values come from is about the values.
func (g *Gateway) meant(ctx context.Context, call *Call, b []byte) []byte {
	a := actionsOf(call.Connection)
	if g.o.Pseudonyms == nil || a.stand == 0 {
		return b
	}
	out, err := g.o.Pseudonyms.Reveal(ctx, pseudonymous(call), a.stand.Labels(), b)
	if err != nil {
		g.o.Logger.Warn("placeholders could not be looked up; their values endorse nothing", "call", call.ID, "error", err)
		return b
	}
	return out
}
