package export

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	status "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/rest"
)

type listing struct {
	Targets []Status `json:"targets"`
}

type targetRequest struct {
	Name string `path:"name" maxLength:"64"`
	Body *struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

func (r *targetRequest) reason(c rest.Caller) string {
	if r.Body != nil && r.Body.Reason != "" {
		return r.Body.Reason
	}
	return c.Reason
}

type eventsRequest struct {
	Format   string    `query:"format" enum:"jsonl,ocsf" doc:"jsonl: events as the log holds them; ocsf: OCSF 1.8"`
	Since    time.Time `query:"since" doc:"from this time on; everything if empty"`
	Until    time.Time `query:"until" doc:"before this time; to the end if empty"`
	After    string    `query:"after" maxLength:"64" doc:"begin after this event: the last one that arrived whole"`
	Payloads bool      `query:"payloads" doc:"with the bodies beside events, as they are stored; it is recorded who asked"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const path, tag = "/api/v1/log/exports", "log"
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: path, Summary: "Show how the continuous exports go", Tag: tag},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*listing, error) {
			targets, err := s.Status(ctx)
			return &listing{targets}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{name}/resume", Summary: "Have an export that stopped try again", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *targetRequest) (*rest.None, error) {
			return nil, s.Resume(ctx, audit.Person(c.ID, c.Name), r.Name, r.reason(c))
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: path + "/{name}/skip", Summary: "Have an export go on without the event that it stopped at", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *targetRequest) (*rest.None, error) {
			return nil, s.Skip(ctx, audit.Person(c.ID, c.Name), r.Name, r.reason(c))
		})
	rest.HandleStream(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/log/export/events", Summary: "Export events of a time as JSON Lines or OCSF", Tag: tag, Need: rest.Inspect}, "application/jsonl", s.serveEvents)
}

// Complete is the trailer of an export that reached its end. One without it
// was cut off: it is continued with after.
const Complete = "X-Countersign-Complete"

func (s *Service) serveEvents(ctx context.Context, c rest.Caller, r *eventsRequest) (rest.Stream, error) {
	switch {
	case r.After != "" && !id.Is(id.Event, r.After):
		return nil, ErrCursor
	case !r.Until.IsZero() && r.Until.Before(r.Since):
		return nil, ErrSince
	}
	if r.Until.IsZero() {
		r.Until = s.o.Now()
	}
	if r.Payloads {
		ev := event("payload.exported", audit.Person(c.ID, c.Name), "download", c.Reason, map[string]string{"format": orElse(r.Format, "jsonl"),
			"since": r.Since.UTC().Format(time.RFC3339), "until": r.Until.UTC().Format(time.RFC3339), "after": r.After})
		ev.Remote, ev.Credential = c.Remote, c.Credential
		if _, err := s.log.Append(ctx, ev); err != nil {
			return nil, err
		}
	}
	q := audit.Query{Since: r.Since, Until: r.Until, After: r.After, Payloads: r.Payloads}
	return func(w http.ResponseWriter) error {
		w.Header().Set("Trailer", Complete)
		out := &flusher{w: w, rc: http.NewResponseController(w)}
		if err := s.Download(ctx, q, r.Format, out); err != nil {
			return err
		}
		w.Header().Set(Complete, "true")
		return nil
	}, nil
}

// writeTimeout is how long a reader may take for a page.
const writeTimeout = time.Minute

// flusher gives each write a time by which it must be taken.
type flusher struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (f *flusher) Write(b []byte) (int, error) {
	_ = f.rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every writer has one
	n, err := f.w.Write(b)
	if err != nil {
		return n, err
	}
	return n, f.rc.Flush()
}

// overHTTP speaks OTLP/HTTP with protobuf bodies (OTLP 1.x, section OTLP/HTTP).
type overHTTP struct {
	t      *Target
	client *http.Client
}

func newHTTP(t *Target) (*overHTTP, error) {
	conf, err := t.tls()
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute,
		DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, // an answer is small, and must be
	}
	return &overHTTP{t, &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a redirect could carry headers and the log elsewhere
	}}}, nil
}

// tls returns how the target's certificate is verified.
func (t *Target) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, ErrTarget.Say("export target %s: ca: the file %s cannot be read", t.Name, t.CA).With(err)
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, ErrTarget.Say("export target %s: ca: there is no certificate in %s", t.Name, t.CA)
	}
	return conf, nil
}

func (h *overHTTP) close() { h.client.CloseIdleConnections() }

func (h *overHTTP) post(ctx context.Context, to signal, req, resp proto.Message) error {
	body, err := proto.Marshal(req)
	if err != nil {
		return &refusal{problem: "it cannot be written as protobuf: " + err.Error(), content: true}
	}
	ctx, cancel := context.WithTimeout(ctx, h.t.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.t.URL+to.path, nil)
	if err != nil {
		return &refusal{problem: "its URL cannot be used"}
	}
	for name, value := range h.t.Headers {
		r.Header.Set(name, value)
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("User-Agent", serviceName)
	if !h.t.Plain {
		r.Header.Set("Content-Encoding", "gzip")
		body = squeeze(body)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	answer, err := h.client.Do(r)
	if err != nil {
		return unreachable(ctx, err, h.t.Timeout)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return unreachable(ctx, err, h.t.Timeout)
	}
	return judge(answer, b, resp)
}

// maxAnswer bounds a collector's answer, in bytes.
const maxAnswer = 1 << 20

func squeeze(b []byte) []byte {
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed) // the level exists
	_, _ = z.Write(b)                                 // into memory
	_ = z.Close()
	return out.Bytes()
}

// unreachable says why no answer came, without the URL, which people know.
func unreachable(ctx context.Context, err error, limit time.Duration) error {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &later{problem: fmt.Sprintf("the target did not answer within %s", limit)}
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return &later{problem: err.Error()}
}

// judge reads an answer.
func judge(answer *http.Response, body []byte, resp proto.Message) error {
	code := answer.StatusCode
	switch {
	case code == http.StatusOK:
		return understand(answer, body, resp)
	case code == http.StatusTooManyRequests, code >= 500:
		// OTLP has 500 dropped. Nothing is dropped here: it is tried again.
		return &later{problem: says(answer, body), after: retryAfter(answer.Header.Get("Retry-After"))}
	case code == http.StatusBadRequest, code == http.StatusRequestEntityTooLarge, code == http.StatusUnprocessableEntity:
		return &refusal{problem: says(answer, body), content: true}
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly:
		return &later{problem: says(answer, body)}
	}
	return &refusal{problem: says(answer, body)}
}

// understand decodes the answer of a success. One that is not OTLP's comes from
// something else than a collector: nothing counts as delivered.
func understand(answer *http.Response, body []byte, resp proto.Message) error {
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type")) // what is no media type is no answer
	var err error
	switch {
	case len(body) > maxAnswer:
		err = errors.New("it is too long")
	case len(body) == 0:
	case kind == "application/json":
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(body, resp)
	case kind == "application/x-protobuf":
		err = proto.Unmarshal(body, resp)
	default:
		err = fmt.Errorf("it is %.40q", kind)
	}
	if err != nil {
		return &later{problem: "the answer is 200 OK but not that of an OTLP collector (" + err.Error() + "): check the url"}
	}
	return nil
}

// says is what a refusal's answer tells, as far as it is in the form that OTLP
// asks for (google.rpc.Status): anything else could be a page that repeats what
// it was sent.
func says(answer *http.Response, body []byte) string {
	told := "the target answers " + answer.Status
	var st status.Status
	if answer.Header.Get("Content-Type") == "application/x-protobuf" && proto.Unmarshal(body, &st) == nil && st.GetMessage() != "" {
		told += ": " + st.GetMessage()
	}
	if answer.StatusCode >= 300 && answer.StatusCode < 400 {
		told += ", a redirect, which is not followed: give the url it leads to"
	}
	return told
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3); 0 if there
// is none.
func retryAfter(v string) time.Duration {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}
