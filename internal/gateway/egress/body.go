package egress

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/connections/operation"
	"github.com/countersign/countersign/internal/gateway"
)

// operation reads the rest of a request that is an operation.
func (x *exchange) operation(call *gateway.Call, path []operation.Argument) error {
	var args object
	if err := x.pathArgs(&args, path); err != nil {
		return err
	}
	if err := x.query(&args); err != nil {
		return err
	}
	if err := x.headers(&args); err != nil {
		return err
	}
	if err := x.upgrade(call); err != nil {
		return err
	}
	if err := x.readBody(call, &args); err != nil {
		return err
	}
	call.Args = args.end()
	x.bind(call)
	call.Reread = func(replace func([]byte) []byte) error {
		body := replace(x.body)
		x.r.Body, x.r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		return x.operation(call, path)
	}
	return nil
}

// meaning are the headers that change what a request asks for, beside those that
// its operation declares: an approval is for them too.
var meaning = []string{"Content-Type", "Content-Encoding", "If-Match", "If-Unmodified-Since", "If-None-Match", "If-Modified-Since", "Range", "If-Range"}

func (x *exchange) meaning() []string {
	names := slices.Clone(meaning)
	if x.op != nil {
		for _, p := range x.op.header {
			names = append(names, http.CanonicalHeaderKey(p.Name))
		}
	}
	return names
}

// bind says what was decided on, and what an approval is for: all that changes
// what the request asks for.
func (x *exchange) bind(call *gateway.Call) {
	h := sha256.New()
	up := call.Request
	fmt.Fprintf(h, "%s %s?%s\n", up.Method, up.Path, up.Query) // a hash takes everything
	for _, name := range x.meaning() {
		for _, v := range x.r.Header[name] {
			fmt.Fprintf(h, "%s: %s\n", name, v)
		}
	}
	h.Write([]byte("\n"))
	h.Write(up.Body)
	call.Digest = hex.EncodeToString(h.Sum(nil))
	call.Bound = []byte(call.Digest)
}

// wire returns the request as the server can make it later without its client.
func (x *exchange) wire() *approvals.Wire {
	w := &approvals.Wire{Front: "http", Method: x.r.Method, Path: Prefix + x.name + x.path, Body: x.body, Header: map[string][]string{}}
	if x.git != nil && int64(len(x.body)) > x.f.o.MaxBody {
		return nil // the rest of it came and went
	}
	if x.r.URL.RawQuery != "" {
		w.Path += "?" + x.r.URL.RawQuery
	}
	for _, name := range append(x.meaning(), "Accept", "Accept-Language", "Idempotency-Key", "X-Idempotency-Key", "Prefer", "Git-Protocol") {
		if v := x.r.Header[name]; len(v) > 0 {
			w.Header[name] = v
		}
	}
	return w
}

// readBody reads what policy needs of the body.
func (x *exchange) readBody(call *gateway.Call, args *object) error {
	body := x.op.Body
	if x.r.ContentLength == 0 {
		if body != nil && body.Required {
			return errBodyNeeded
		}
		return nil
	}
	if body == nil {
		return errNoBody
	}
	media, params, err := x.media()
	if err != nil {
		return err
	}
	accepted, read := body.Reads(media)
	if !accepted {
		return errType.Say("the operation takes a body of the type %s, not %.60q", strings.Join(body.Types, ", "), media)
	}
	args.text("content_type", media)
	if x.r.ContentLength > 0 {
		args.number("content_length", x.r.ContentLength)
	}
	switch {
	case !read:
		return x.opaque(call)
	case encoded(x.r.Header):
		return errEncoding
	case media == operation.Multipart:
		return x.multipart(call, args, params["boundary"])
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") {
		return errType.Say("the body must be UTF-8, not %.20q", cs)
	}
	b, err := x.whole()
	if err != nil {
		return err
	}
	call.Request.Body = b
	if media == operation.Form {
		list, err := pairs(string(b), errForm)
		if err != nil {
			return err
		}
		return x.form(args, list)
	}
	if !jsontext.Value(b).IsValid() {
		return gateway.ErrBody.Say("the body is not strict JSON (RFC 8259): it is malformed, not UTF-8, or a name is there twice")
	}
	args.raw("body", b)
	return nil
}

// media returns the type of the body: one, or there is no telling what it is.
func (x *exchange) media() (string, map[string]string, error) {
	types := x.r.Header["Content-Type"]
	if len(types) != 1 {
		return "", nil, errType.Say("send exactly one Content-Type")
	}
	media, params, err := mime.ParseMediaType(types[0])
	if err != nil || media == "" {
		return "", nil, errType.Say("the Content-Type cannot be read")
	}
	return media, params, nil
}

func encoded(h http.Header) bool {
	return slices.ContainsFunc(h["Content-Encoding"], func(e string) bool { return !strings.EqualFold(strings.TrimSpace(e), "identity") })
}

// form writes the fields of a form. One that is named like a method would be
// taken for it by some servers.
func (x *exchange) form(args *object, list []pair) error {
	for _, p := range list {
		if _, declared := x.op.fields[p.name]; !declared && strings.EqualFold(p.name, "_method") {
			return errOverride.Say("the field _method changes what the request asks for and is refused; send the method that is meant")
		}
	}
	return values(args, "body", x.op.fields, list, true)
}

// opaque passes on content that policy does not read: whole if it is small, so
// that its digest is known before it goes, else as it comes.
func (x *exchange) opaque(call *gateway.Call) error {
	if n := x.r.ContentLength; n > 0 && n <= x.f.o.MaxBody {
		b, err := x.whole()
		call.Request.Body = b
		return err
	}
	x.stream(call, nil, x.arriving())
	return nil
}

// stream makes the rest of the body follow what was read of it.
func (x *exchange) stream(call *gateway.Call, head []byte, rest io.Reader) {
	call.Request.Body, call.Request.Stream, call.Request.Length = head, rest, x.r.ContentLength
	call.Unbound = fmt.Sprintf("its body is not known before it is sent: it is over %d bytes, or does not say how long it is", x.f.o.MaxBody)
	_ = http.NewResponseController(x.w).EnableFullDuplex() // HTTP/2 is already
}

// whole reads all of a body, within the limit and in time.
func (x *exchange) whole() ([]byte, error) {
	if x.r.ContentLength > x.f.o.MaxBody {
		return nil, tooLarge(x.f.o.MaxBody)
	}
	b, more, err := x.head()
	if err == nil && more {
		err = tooLarge(x.f.o.MaxBody)
	}
	return b, err
}

func tooLarge(limit int64) error {
	return gateway.ErrTooLarge.Say("policy must read this body, and it is over the limit of %d bytes", limit)
}

// firstBody is how much memory a mere announcement gets.
const firstBody = 64 << 10

// head reads the body up to the limit. more says that there may be more.
func (x *exchange) head() (b []byte, more bool, err error) {
	control := http.NewResponseController(x.w)
	_ = control.SetReadDeadline(time.Now().Add(x.f.o.ReadTimeout)) // not every ResponseWriter has one
	size := x.r.ContentLength + 1
	if size <= 0 || size > firstBody {
		size = firstBody
	}
	buf := bytes.NewBuffer(make([]byte, 0, size))
	_, err = io.Copy(buf, io.LimitReader(x.r.Body, x.f.o.MaxBody+1))
	if err != nil {
		return nil, false, arrival(err)
	}
	_ = control.SetReadDeadline(time.Time{})
	x.body = buf.Bytes()
	return x.body, int64(buf.Len()) > x.f.o.MaxBody, nil
}

func arrival(err error) error {
	var timeout net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return gateway.ErrSlow.With(err)
	}
	return gateway.ErrBody.With(err)
}

// arriving reads the body as it comes; it may take any time, but not be silent
// for long.
func (x *exchange) arriving() io.Reader {
	return &arrivals{r: x.r.Body, control: http.NewResponseController(x.w), silence: x.f.o.ReadTimeout}
}

type arrivals struct {
	r       io.Reader
	control *http.ResponseController
	silence time.Duration
}

// Read implements io.Reader.
func (a *arrivals) Read(p []byte) (int, error) {
	_ = a.control.SetReadDeadline(time.Now().Add(a.silence))
	n, err := a.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = arrival(err)
	}
	return n, err
}
