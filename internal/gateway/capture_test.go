package gateway_test

import (
	"bytes"
	"context"
	"encoding/json/jsontext"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// keeper is an observer that keeps the whole answer.
type keeper struct{ body []byte }

func (k *keeper) Begin(int, http.Header) {}
func (k *keeper) Chunk(b []byte)         { k.body = append(k.body, b...) }
func (k *keeper) Done(error) gateway.Seen {
	return gateway.Seen{Payloads: []audit.Payload{{Name: "answer", Body: k.body}}}
}

func TestCaptureLevels(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	key := "sk-proj-" + strings.Repeat("Ab3dEf6hIj9kLm2n", 3)
	const card = "4111 1111 1111 1111"
	prompt := []byte(card + " " + key + " " + strings.Repeat("word ", 60<<10) + key + " end")
	for i, c := range []struct {
		capture     string
		least, most int
		card        bool
		level       audit.Level
	}{
		{connections.CaptureFull, 250 << 10, 256 << 10, true, audit.Full},
		{connections.CaptureRedacted, 15 << 10, 16 << 10, false, ""},
		{connections.CaptureDigest, 0, 0, false, audit.Digest},
	} {
		answer, refusal := r.serve(t.Context(), func(call *gateway.Call) {
			call.Connection.Capture, call.Observer = c.capture, &keeper{}
			call.Prompt = []audit.Payload{{Name: "prompt", Body: prompt}}
		})
		if refusal != nil {
			t.Fatal(refusal)
		}
		drain(t, answer)
		r.Events(i+1, audit.CallOutcome)
		rec, err := r.Log.Get(t.Context(), answer.Event)
		if err != nil {
			t.Fatal(err)
		}
		kept := rec.Payloads["prompt"]
		if len(kept) < c.least || len(kept) > c.most || bytes.Contains(kept, []byte("Ab3dEf6h")) || bytes.Contains(kept, []byte(card)) != c.card {
			t.Errorf("%s: %d bytes kept: %.80s", c.capture, len(kept), kept)
		}
		at := slices.IndexFunc(rec.Event.Payloads, func(p audit.Commitment) bool { return p.Name == "prompt" })
		if p := rec.Event.Payloads[at]; p.Level != c.level || p.Size != int64(len(prompt)) || (p.Whole != "") != (c.level != audit.Digest) {
			t.Errorf("%s: %+v", c.capture, p)
		}
		if out := r.Events(i+1, audit.CallOutcome)[i]; out.Event.Payloads[0].Level != c.level {
			t.Errorf("%s: the answer is kept as %+v", c.capture, out.Event.Payloads)
		}
	}
}

// about makes a call as an agent that says whom it is about.
func (r *rig) about(t *testing.T, said []string, args string, refs connections.References) (*gateway.Answer, *gateway.Refusal) {
	t.Helper()
	h := http.Header{gateway.SubjectHeader: said}
	answer, err := r.Gateway.Serve(t.Context(), gateway.Incoming{
		Front: "test", Credential: r.Key, Remote: "127.0.0.1:1", Subject: gateway.SubjectOf(h), Parse: func(context.Context, identity.Caller) (*gateway.Call, error) {
			call := &gateway.Call{Connection: r.conn, Tool: r.tool, Args: jsontext.Value(args), Observer: &keeper{},
				Request: &gateway.Upstream{Method: "POST", Path: "/v1/chat/completions", Header: h, Body: []byte(args)}}
			call.Tool.References = refs
			return call, nil
		},
	})
	if err != nil {
		return nil, gateway.Refuse(err)
	}
	drain(t, answer)
	return answer, nil
}

func TestASubjectIsErasedWithItsCallsAlone(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		ctx := t.Context()
		r := newRig(t, db)
		refs := connections.References{Subject: "customer.email", Objects: map[string]string{"invoice": "lines.*.invoice_id"}}
		calls := []*gateway.Answer{}
		for _, c := range []struct {
			said []string
			args string
		}{
			{nil, `{"model":"m","stream":false,"customer":{"email":"Max@example.org"},"lines":[{"invoice_id":4711},{"invoice_id":"A/7"},{"invoice_id":4711}]}`}, // declared
			{[]string{"max@example.org"}, `{"model":"m","stream":false,"customer":{}}`},                                                                         // said
			{[]string{"max@example.org"}, `{"model":"m","stream":false,"customer":{"email":"lisa@example.org"}}`},                                               // declared goes first
			{nil, `{"model":"m","stream":false,"customer":{"email":7.5,"mail":"max@example.org"}}`},                                                             // about a number: nobody we know
			{nil, `{"model":"m","stream":false,"customer":{"email":["max@example.org"]}}`},                                                                      // not a text
		} {
			answer, refusal := r.about(t, c.said, c.args, refs)
			if refusal != nil {
				t.Fatal(refusal)
			}
			calls = append(calls, answer)
		}
		r.Events(len(calls), audit.CallOutcome)
		if got := r.up.Requests()[1].Header.Get(gateway.SubjectHeader); got != "" {
			t.Errorf("the upstream was told the subject %q", got)
		}
		first, err := r.Log.Get(ctx, calls[0].Event)
		if err != nil || !slices.Equal(first.Event.Objects, []string{"invoice/4711", "invoice/A/7"}) {
			t.Errorf("%v, %v", first.Event.Objects, err)
		}
		if bytes.Contains(bytes.ToLower(first.Raw), []byte("max@")) {
			t.Errorf("the subject is in the event: %s", first.Raw)
		}
		done, err := r.Log.Erase(ctx, audit.System, "asked for", audit.Erasure{Subject: "MAX@example.org"})
		if err != nil || done.Payloads != 4 || done.Keys != 1 {
			t.Errorf("%+v, %v", done, err)
		}
		for i, answer := range calls {
			recs, err := r.Log.List(ctx, audit.Query{Call: answer.Call, Payloads: true})
			if err != nil || len(recs) != 2 {
				t.Fatal(len(recs), err)
			}
			for _, rec := range recs {
				if (len(rec.Payloads) == 0) != (i < 2) {
					t.Errorf("call %d, %s: %v is left", i, rec.Event.Type, rec.Payloads)
				}
				if (len(rec.Event.Objects) == 2) != (i == 0) {
					t.Errorf("call %d, %s touches %v", i, rec.Event.Type, rec.Event.Objects)
				}
			}
		}
		if rep, err := r.Log.Verify(ctx, nil); err != nil || len(rep.Problems) > 0 {
			t.Errorf("%+v, %v", rep, err)
		}
	})
}

func TestABadSubjectIsRefusedAndRecorded(t *testing.T) {
	r := newRig(t, storagetest.Open(t, storagetest.SQLite(t)))
	bad := [][]string{{""}, {" "}, {"a", "b"}, {"a\x00b"}, {"\xff"}, {strings.Repeat("x", 513)}}
	for _, said := range bad {
		if _, refusal := r.about(t, said, `{}`, connections.References{}); refusal == nil || refusal.Code != "bad_subject" {
			t.Errorf("%.20q: %v", said, refusal)
		}
	}
	if n := len(r.up.Requests()); n != 0 {
		t.Errorf("%d requests went out", n)
	}
	r.Events(len(bad), audit.CallRefused)
}
