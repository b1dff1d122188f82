package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/countersign/countersign/internal/connections"
)

// sending is the body of a request that is streamed. It hashes and counts what
// was sent, for the outcome: the digest of the intent covers only what was
// there when it was decided.
type sending struct {
	r io.Reader

	mu     sync.Mutex
	digest hash.Hash
	bytes  int64
	closed bool
}

func newSending(up *Upstream) *sending {
	return &sending{r: io.MultiReader(bytes.NewReader(up.Body), up.Stream), digest: sha256.New()}
}

// Read implements io.Reader.
func (s *sending) Read(p []byte) (int, error) {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := s.r.Read(p)
	s.mu.Lock()
	s.digest.Write(p[:n])
	s.bytes += int64(n)
	s.mu.Unlock()
	return n, err
}

// Close implements io.Closer.
func (s *sending) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return nil
}

type sentDetail struct {
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
}

// outcomeDetail says what was streamed to the upstream, and what the observer
// has to say.
func outcomeDetail(call *Call, seen Seen) jsontext.Value {
	if b := call.brought.Load(); b != nil && seen.Detail == nil {
		seen.Detail = b.Detail
	}
	if answers := call.guardedAnswers(); len(answers) > 0 {
		seen.Detail = struct {
			Guard []guardFact `json:"guard"`
			Seen  any         `json:"seen,omitzero"`
		}{answers, seen.Detail}
	}
	if call.sent == nil {
		if seen.Detail == nil {
			return nil
		}
		return detail(seen.Detail)
	}
	s := call.sent
	s.mu.Lock()
	defer s.mu.Unlock()
	return detail(struct {
		Sent sentDetail `json:"sent"`
		Seen any        `json:"seen,omitzero"`
	}{sentDetail{s.bytes, hex.EncodeToString(s.digest.Sum(nil))}, seen.Detail})
}

// upgraded returns where the agent's side of an upgraded connection is written.
func (a *answerBody) upgraded() io.Writer {
	w, ok := a.body.(io.Writer)
	if !ok {
		return nil
	}
	return &upstreamWriter{a: a, w: w}
}

// upstreamWriter writes to an upgraded connection as long as its call goes on.
type upstreamWriter struct {
	a *answerBody
	w io.Writer
}

// Write implements io.Writer.
func (u *upstreamWriter) Write(p []byte) (int, error) {
	u.a.mu.Lock()
	ended, err := u.a.ended, u.a.end
	u.a.mu.Unlock()
	if ended {
		return 0, err
	}
	return u.w.Write(p)
}

// trailerOf returns what reads the trailer of an answer once its body has ended.
func trailerOf(resp *http.Response) func() http.Header {
	if len(resp.Trailer) == 0 {
		return nil
	}
	hidden := resp.Body
	return func() http.Header {
		out := make(http.Header, len(resp.Trailer))
		for name, values := range resp.Trailer {
			if hopByHop[name] || upstreamsOwn[name] || strings.HasPrefix(name, "X-Countersign-") {
				continue
			}
			for _, v := range values {
				out[name] = append(out[name], veiled(hidden, v))
			}
		}
		return out
	}
}

// veiled returns v without the secrets that the answer's body is read without.
func veiled(body io.Reader, v string) string {
	for {
		cover, ok := body.(*veil)
		if !ok {
			return v
		}
		v = strings.ReplaceAll(v, string(cover.secret), string(cover.stars))
		body = cover.ReadCloser
	}
}

// Within returns the path beneath a connection's base URL to which a location
// in an answer to a request for path leads, and its query. It reports false if
// it leads anywhere else.
func Within(c connections.Connection, path, location string) (string, bool) {
	base, err := parseBase(c.URL)
	if err != nil {
		return "", false
	}
	from, err := base.join(path, "")
	if err != nil {
		return "", false
	}
	to, err := from.Parse(location)
	if err != nil || to.Scheme != from.Scheme || !strings.EqualFold(to.Host, from.Host) || to.User != nil {
		return "", false
	}
	rest, under := strings.CutPrefix(to.EscapedPath(), strings.TrimRight(base.u.EscapedPath(), "/"))
	if !under || CheckPath(rest) != nil || rest == "" {
		return "", false
	}
	if to.RawQuery != "" {
		rest += "?" + to.RawQuery
	}
	return rest, true
}
