package llm

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
)

var (
	errType     = fault.New(fault.Unsupported, "bad_content_type", "send the body as Content-Type: application/json")
	errEncoding = fault.New(fault.Unsupported, "bad_content_encoding", "send the body without a Content-Encoding; what policy reads must be what is forwarded")
	errNoBody   = fault.New(fault.Invalid, "unexpected_body", "this operation takes no body")
)

// firstBody is how much memory a mere announcement gets.
const firstBody = 256 << 10

// readBody reads the request's body, at most limit bytes within the time given.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, within time.Duration) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(within)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, gateway.ErrBody.With(err)
	}
	// One byte more than announced, so that the end is seen without growing.
	size := r.ContentLength + 1
	if size <= 0 || size > firstBody {
		size = firstBody // what is announced is not yet sent
	}
	body, err := fill(make([]byte, 0, size), r.Body, limit)
	if err != nil {
		return nil, err
	}
	if err := control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, gateway.ErrBody.With(err)
	}
	return body, nil
}

// fill appends what r holds to b. A body longer than limit, shorter than
// announced or too slow is refused.
func fill(b []byte, r io.Reader, limit int64) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			return nil, tooLarge(limit)
		case err == io.EOF:
			return b, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, gateway.ErrSlow.With(err)
		case err != nil:
			return nil, gateway.ErrBody.With(err)
		}
	}
}

func tooLarge(limit int64) error {
	return gateway.ErrTooLarge.Say("the request's body is over the limit of %d bytes", limit)
}

// checkHeader refuses a body that is not announced as plain JSON.
func checkHeader(r *http.Request) error {
	types := r.Header["Content-Type"]
	if len(types) != 1 {
		return errType
	}
	kind, params, err := mime.ParseMediaType(types[0])
	if err != nil || kind != "application/json" {
		return errType
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") {
		return errType.Say("the body must be UTF-8, not %.20q", cs)
	}
	for _, e := range r.Header["Content-Encoding"] {
		if !strings.EqualFold(strings.TrimSpace(e), "identity") {
			return errEncoding
		}
	}
	return nil
}
