package egress

import (
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway"
)

// observer keeps the beginning of an answer for the log, if it is text. Of all
// others the outcome has the digest.
type observer struct {
	limit  int
	text   bool
	kept   []byte
	size   int64
	detail any // of a WebSocket or git, filled in as it goes
}

// Begin implements gateway.Observer.
func (o *observer) Begin(_ int, h http.Header) {
	media, _, _ := strings.Cut(strings.ToLower(h.Get("Content-Type")), ";")
	media = strings.TrimSpace(media)
	plain := h.Get("Content-Encoding") == "" || strings.EqualFold(h.Get("Content-Encoding"), "identity")
	o.text = plain && (strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "json") || strings.HasSuffix(media, "xml") || media == "application/x-www-form-urlencoded")
}

// Chunk implements gateway.Observer.
func (o *observer) Chunk(b []byte) {
	o.size += int64(len(b))
	if room := o.limit - len(o.kept); o.text && room > 0 {
		o.kept = append(o.kept, b[:min(len(b), room)]...)
	}
}

// Done implements gateway.Observer.
func (o *observer) Done(error) gateway.Seen {
	s := gateway.Seen{Detail: o.detail}
	if o.text && o.size > 0 {
		s.Payloads = []audit.Payload{{Name: "answer", Body: o.kept, Size: o.size}}
	}
	return s
}
