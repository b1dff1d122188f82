package egress

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/gateway"
)

// refer hands out the untrusted text of an answer as references: those in JSON one
// by one, any other text as one. What is no text, and what does not come to an end,
// is not handed out at all.
func (x *exchange) refer(call *gateway.Call, resp *http.Response) error {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		media = ""
	}
	names(resp.Header)
	if call.Request.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, x.f.o.MaxBody+1))
	resp.Trailer = nil // it came with the body's end
	switch {
	case err != nil:
		return err
	case int64(len(b)) > x.f.o.MaxBody:
		return unreferred("it is over " + strconv.FormatInt(x.f.o.MaxBody, 10) + " bytes")
	case len(b) == 0:
		return answered(resp, "", nil)
	case resp.Header.Get("Content-Encoding") != "":
		return unreferred("it is encoded")
	}
	if isJSONMedia(media) {
		out, ok, err := x.f.o.Gateway.ReferDocument(call, b)
		if err != nil {
			return gateway.Refuse(err)
		}
		if ok {
			return answered(resp, media, out)
		}
	}
	if !isJSONMedia(media) && !isText(media) {
		return unreferred("it is no text")
	}
	ref, err := x.f.o.Gateway.ReferText(call, strings.ToValidUTF8(string(b), "\uFFFD"))
	if err != nil {
		return gateway.Refuse(err)
	}
	return answered(resp, "text/plain; charset=utf-8", []byte(ref))
}

// unreferred refuses an answer of which there can be no reference.
func unreferred(why string) error {
	return gateway.Refuse(gateway.ErrAnswer.Say("the connection hands out untrusted text by reference, and of this answer there can be none: %s", why))
}

// answered puts another body into an answer. The old one is at its end.
func answered(resp *http.Response, media string, b []byte) error {
	if resp.Body == nil {
		return errors.New("the answer has no body")
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(b), resp.Body}
	resp.ContentLength = int64(len(b))
	resp.Header.Set("Content-Length", strconv.Itoa(len(b)))
	if media != "" {
		resp.Header.Set("Content-Type", media)
	}
	return nil
}

// names leaves of a header what is a single word, a time, or the form of the body:
// all else may be anybody's sentence.
func names(h http.Header) {
	for name, values := range h {
		keep := flow.Plain(name)
		for _, v := range values {
			_, err := http.ParseTime(v)
			keep = keep && (flow.Plain(v) || err == nil || name == "Location" && plainPath(v))
		}
		if !keep {
			delete(h, name)
		}
	}
	for _, of := range []string{"Etag", "Digest", "Content-Digest", "Repr-Digest", "Content-Md5", "Accept-Ranges", "Content-Range", "Content-Type"} {
		h.Del(of) // of another body
	}
}

// plainPath reports whether a path, which leads to the connection, is made of words.
func plainPath(v string) bool {
	for part := range strings.SplitSeq(v, "/") {
		if part != "" && !flow.Plain(part) {
			return false
		}
	}
	return true
}

func isJSONMedia(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// isText reports whether a media type is text that ends: not a stream of events.
func isText(media string) bool {
	return strings.HasPrefix(media, "text/") && media != "text/event-stream" || media == "application/xml" || strings.HasSuffix(media, "+xml") || media == "application/x-www-form-urlencoded"
}
