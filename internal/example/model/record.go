package model

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Request is what the server remembers of one request it received. It is
// written down before anything is answered, so the record holds every request
// that reached this process. The credential is kept as a digest only.
type Request struct {
	// Seq counts from 1 in the order of arrival.
	Seq int64 `json:"seq"`
	// At is when the request had been read.
	At time.Time `json:"at"`
	// Method, Path and Query are as received.
	Method string `json:"method"`
	Path   string `json:"path"`
	Query  string `json:"query,omitempty"`
	// Header is as received; the values of credential headers are replaced.
	Header map[string][]string `json:"header"`
	// BodyBytes and BodySHA256 (hexadecimal) describe the body.
	BodyBytes  int64  `json:"body_bytes"`
	BodySHA256 string `json:"body_sha256"`
	// KeySHA256 (hexadecimal) is the digest of the presented credential without
	// its scheme; empty when there was none.
	KeySHA256 string `json:"key_sha256,omitempty"`
	// Authorised tells whether the credential was this server's key.
	Authorised bool `json:"authorised"`
	// Calls are the values of headers that name a call (such as
	// Countersign-Call): what ties this request to the caller's log.
	Calls []string `json:"calls,omitempty"`
}

// recorder keeps the newest requests. It is bounded: old ones fall out and are
// counted as dropped, so that a long benchmark does not eat the machine.
type recorder struct {
	mu      sync.Mutex
	limit   int
	seq     int64
	dropped int64
	kept    []Request
}

func (r *recorder) add(req Request) {
	if r.limit < 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	req.Seq = r.seq
	if r.limit > 0 && len(r.kept) >= r.limit {
		// Half at a time: one copy per limit/2 requests instead of one per request.
		n := max(1, r.limit/2)
		r.dropped += int64(n)
		r.kept = append(r.kept[:0], r.kept[n:]...)
	}
	r.kept = append(r.kept, req)
}

func (r *recorder) list() ([]Request, int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Request{}, r.kept...), r.dropped
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept, r.dropped = nil, 0
}

// credentialHeaders never appear in a record in the clear.
var credentialHeaders = map[string]bool{"Authorization": true, "X-Api-Key": true, "Api-Key": true, "Cookie": true, "Proxy-Authorization": true}

func newRequest(r *http.Request, body []byte, key string, authorised bool, now time.Time) Request {
	sum := sha256.Sum256(body)
	rec := Request{
		At: now.UTC(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery,
		Header:    make(map[string][]string, len(r.Header)),
		BodyBytes: int64(len(body)), BodySHA256: hex.EncodeToString(sum[:]),
		Authorised: authorised,
	}
	if key != "" {
		k := sha256.Sum256([]byte(key))
		rec.KeySHA256 = hex.EncodeToString(k[:])
	}
	for name, values := range r.Header {
		if credentialHeaders[name] {
			rec.Header[name] = []string{"(digest in key_sha256)"}
			continue
		}
		rec.Header[name] = values
		if strings.Contains(strings.ToLower(name), "call") {
			rec.Calls = append(rec.Calls, values...)
		}
	}
	return rec
}
