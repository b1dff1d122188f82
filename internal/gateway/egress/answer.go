package egress

import (
	"bytes"
	"encoding/json/v2"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/gateway"
)

// rewrite lets a redirect through if it leads to the connection itself, by way
// of us. Elsewhere the agent has no business, nor has our credential.
func (x *exchange) rewrite(call *gateway.Call, resp *http.Response) error {
	location := resp.Header.Get("Location")
	to, within := gateway.Within(x.conn, x.path, location)
	switch {
	case location != "" && within:
		resp.Header.Set("Location", x.door+to)
	case resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.StatusCode != http.StatusNotModified:
		return gateway.Refuse(gateway.ErrRedirect.Say("the upstream answered with a redirect to somewhere else, which is not followed; if agents need what is there, register it as a connection of its own"))
	}
	if x.ws != nil && resp.StatusCode == http.StatusSwitchingProtocols {
		return x.ws.check(resp.Header)
	}
	x.learn(call, resp)
	if x.f.o.Gateway.Strict(call) {
		return x.refer(call, resp)
	}
	return nil
}

// maxLearnt is the longest answer of which anything endorses, in bytes.
const maxLearnt = 1 << 20

// learn shows the line what an operation answered before the agent sees it, if
// its fields or its source are declared: they may endorse later calls. The answer
// then is there as a whole before it passes. A longer one endorses nothing.
func (x *exchange) learn(call *gateway.Call, resp *http.Response) {
	if resp.StatusCode/100 != 2 || !x.f.o.Gateway.Learns(call) || resp.ContentLength > maxLearnt || !isJSON(resp.Header) {
		return
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxLearnt+1))
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = broken{err}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(b), rest), resp.Body}
	if err == nil && len(b) <= maxLearnt {
		x.f.o.Gateway.Learn(call, b)
	}
}

// broken is what is left of an answer that broke off.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func isJSON(h http.Header) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && isJSONMedia(kind) && h.Get("Content-Encoding") == ""
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// pass writes the answer as it comes.
func (x *exchange) pass(a *gateway.Answer) {
	defer a.Body.Close()
	out := x.w.Header()
	for name, values := range a.Header {
		out[name] = values
	}
	out.Set("X-Countersign-Call", a.Call)
	x.w.WriteHeader(a.Status)
	control := http.NewResponseController(x.w)
	flush := a.Header.Get("Content-Length") == ""
	p := buffers.Get().(*[]byte)
	defer buffers.Put(p)
	var extended time.Time
	for {
		n, err := a.Body.Read(*p)
		if n > 0 {
			if now := time.Now(); now.Sub(extended) > x.f.o.WriteTimeout/4 {
				_ = control.SetWriteDeadline(now.Add(x.f.o.WriteTimeout)) // not every ResponseWriter has one
				extended = now
			}
			if _, werr := x.w.Write((*p)[:n]); werr != nil {
				return // the client left: Close cancels the upstream
			}
			if flush && err == nil && control.Flush() != nil {
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			x.trailer(a)
			if a.Told != nil && control.Flush() == nil && x.r.Context().Err() == nil {
				a.Told()
			}
			return
		case err != nil:
			panic(http.ErrAbortHandler) // so that no client takes half an answer for a whole one
		}
	}
}

func (x *exchange) trailer(a *gateway.Answer) {
	if a.Trailer == nil {
		return
	}
	for name, values := range a.Trailer() {
		x.w.Header()[http.TrailerPrefix+name] = values
	}
}

// problem is a refusal as RFC 9457 has it.
type problem struct {
	Type     string   `json:"type"`
	Title    string   `json:"title"`
	Status   int      `json:"status"`
	Detail   string   `json:"detail"`
	Code     string   `json:"code"`
	Advice   []string `json:"advice,omitzero"`
	Event    string   `json:"event,omitzero"`
	Call     string   `json:"call,omitzero"`
	Run      string   `json:"run,omitzero"`
	Approval *pending `json:"approval,omitzero"`
}

type pending struct {
	ID       string    `json:"id"`
	URL      string    `json:"url"`
	State    string    `json:"state"`
	DecideBy time.Time `json:"decide_by"`
}

// refuse writes a refusal: 202 for a call that waits for people, else what its
// kind says.
func (x *exchange) refuse(r *gateway.Refusal) {
	if x.absent { // the same bytes as for one that is not there
		r = &gateway.Refusal{Kind: errConnection.Kind, Code: errConnection.Code, Reason: errConnection.Message, Event: r.Event}
	}
	h := x.w.Header()
	for name, v := range map[string]string{"X-Countersign-Call": r.Call, "X-Countersign-Event": r.Event} {
		if v != "" {
			h.Set(name, v)
		}
	}
	if x.refuseGit(r) {
		return
	}
	status := r.Kind.Status()
	switch {
	case x.status != 0:
		status = x.status
	case r.Held():
		status = http.StatusAccepted
	case r.Code == errMethod.Code:
		status = http.StatusMethodNotAllowed
		h.Set("Allow", strings.Join(x.allow, ", "))
	case status == http.StatusUnauthorized:
		h["Www-Authenticate"] = []string{`Bearer realm="countersign"`, `Basic realm="countersign", charset="UTF-8"`}
	}
	p := problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: r.Reason, Code: r.Code, Advice: r.Advice, Event: r.Event, Call: r.Call, Run: r.Run}
	if r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((r.RetryAfter+time.Second-1)/time.Second)))
	}
	if a := r.Approval; a != nil {
		p.Approval = &pending{a.ID, a.URL, string(a.State), a.DecideBy.UTC()}
		h.Set("X-Countersign-Approval", a.ID)
		if r.Held() {
			h.Set("Location", a.URL)
			p.Detail += ". Repeat the identical request to learn what people decided; it is made then if they approved"
		}
	}
	body, err := json.Marshal(p)
	if err != nil { // texts of ours, and valid UTF-8
		body = []byte(`{"type":"about:blank"}`)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.w.WriteHeader(status)
	_, _ = x.w.Write(body) // if this fails, the client has left
}
