package gateway

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

// hide keeps an upstream that repeats what it was sent from showing the agent
// Countersign's own credential: wherever the answer holds it, in a header or in
// the body, as many asterisks stand instead, so that lengths stay true.
func hide(resp *http.Response, secret string) {
	if secret == "" {
		return
	}
	stars := strings.Repeat("*", len(secret))
	for _, values := range resp.Header {
		for i := range values {
			values[i] = strings.ReplaceAll(values[i], secret, stars)
		}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return // nothing may be held back there; see answerBody.Receive
	}
	resp.Body = &veil{ReadCloser: resp.Body, secret: []byte(secret), stars: []byte(stars)}
}

// cover puts asterisks over the upstream's secret in a whole message.
func (c *Call) cover(message []byte) {
	for _, secret := range c.hidden {
		if secret != "" {
			v := veil{secret: []byte(secret), stars: []byte(strings.Repeat("*", len(secret)))}
			v.cover(message)
		}
	}
}

// veil is a body without the secret. It holds back what may be the secret's
// beginning until it is known to be something else; all other bytes pass as
// they come.
type veil struct {
	io.ReadCloser
	secret, stars []byte
	held          []byte // a proper prefix of secret, not passed on yet
	ready         []byte // to pass on, before anything is read again
	err           error  // of the body, to be returned after ready
}

// Read implements io.Reader.
func (v *veil) Read(p []byte) (int, error) {
	for len(v.ready) == 0 {
		if v.err != nil {
			return 0, v.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		if len(v.held) == 0 {
			if n, done := v.direct(p); done {
				return n, nil
			}
			continue
		}
		var n int
		n, v.err = v.ReadCloser.Read(p)
		v.take(append(v.held[:len(v.held):len(v.held)], p[:n]...))
	}
	n := copy(p, v.ready)
	v.ready = v.ready[n:]
	return n, nil
}

// direct reads into p itself, the usual case. It reports false when it has
// nothing to return yet.
func (v *veil) direct(p []byte) (int, bool) {
	var n int
	n, v.err = v.ReadCloser.Read(p)
	b := p[:n]
	v.cover(b)
	keep := n
	if v.err == nil {
		keep = n - v.begun(b)
	}
	v.held = bytes.Clone(b[keep:])
	return keep, keep > 0
}

// take prepares b, which the caller owns, to be passed on.
func (v *veil) take(b []byte) {
	v.cover(b)
	keep := len(b)
	if v.err == nil {
		keep -= v.begun(b)
	}
	v.ready, v.held = b[:keep], bytes.Clone(b[keep:])
}

func (v *veil) cover(b []byte) {
	for {
		i := bytes.Index(b, v.secret)
		if i < 0 {
			return
		}
		b = b[i+copy(b[i:], v.stars):]
	}
}

// begun returns how many bytes at the end of b may be the secret's beginning.
func (v *veil) begun(b []byte) int {
	tail := b[max(0, len(b)-len(v.secret)+1):]
	for {
		i := bytes.IndexByte(tail, v.secret[0])
		if i < 0 {
			return 0
		}
		if tail = tail[i:]; bytes.HasPrefix(v.secret, tail) {
			return len(tail)
		}
		tail = tail[1:]
	}
}
