package gateway

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// sharedBody lets the transport read a call's bytes without a copy and gives
// them back (Upstream.Release) when nothing can read them any more: a transport
// may still be sending when its response has already come.
type sharedBody struct {
	b       []byte
	refs    atomic.Int32
	release func()
}

func newBody(up *Upstream) *sharedBody {
	s := &sharedBody{b: up.Body, release: up.Release}
	s.refs.Store(1) // the attempt itself
	return s
}

// done ends a reference; the last one releases.
func (s *sharedBody) done() {
	if s.refs.Add(-1) == 0 && s.release != nil {
		s.release()
	}
}

func (s *sharedBody) reader() io.ReadCloser {
	s.refs.Add(1)
	return &bodyReader{shared: s}
}

// again lets the transport start over on a fresh connection, which it does only
// if it wrote nothing on a stale one (see cleanRequest about idempotency keys).
func (s *sharedBody) again() (io.ReadCloser, error) { return s.reader(), nil }

// bodyReader reads s once. A transport may close it while it reads.
type bodyReader struct {
	mu     sync.Mutex
	shared *sharedBody
	off    int
	closed bool
}

var errBodyClosed = errors.New("request body is closed")

func (r *bodyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, errBodyClosed
	}
	n := copy(p, r.shared.b[r.off:])
	r.off += n
	if r.off == len(r.shared.b) {
		return n, io.EOF
	}
	return n, nil
}

func (r *bodyReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		r.shared.done()
	}
	return nil
}

// release gives back the bytes of a call that is not sent.
func release(up *Upstream) {
	if up != nil && up.Release != nil {
		up.Release()
	}
}
