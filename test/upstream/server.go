package upstream

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Request is what the server received.
type Request struct {
	Method, Path, Query string
	Header              http.Header
	Body                []byte
}

// Server records requests and answers with a handler that can be changed.
type Server struct {
	URL string

	mu       sync.Mutex
	handler  http.Handler
	requests []Request
	arrived  chan struct{} // signalled on each request
	gone     chan struct{} // signalled when a client leaves a handler that waits for that
	server   *httptest.Server
}

// Start returns a running server that stops with the test.
func Start(tb testing.TB, h http.HandlerFunc) *Server {
	tb.Helper()
	s := &Server{handler: h, arrived: make(chan struct{}, 1024), gone: make(chan struct{}, 1024)}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	s.URL = s.server.URL
	tb.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, Request{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Clone(), body})
	h := s.handler
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	h.ServeHTTP(w, r)
	if r.Context().Err() != nil {
		s.gone <- struct{}{}
	}
}

// Answer changes the handler.
func (s *Server) Answer(h http.HandlerFunc) {
	s.mu.Lock()
	s.handler = h
	s.mu.Unlock()
}

// Requests returns what was received so far, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Arrived waits until a request has come since the last time.
func (s *Server) Arrived(tb testing.TB) { wait(tb, s.arrived, "no request arrived") }

// Gone waits until a client has left before it got its answer.
func (s *Server) Gone(tb testing.TB) { wait(tb, s.gone, "the client did not leave") }

func wait(tb testing.TB, c chan struct{}, complaint string) {
	tb.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		tb.Fatal(complaint)
	}
}

// JSON answers with a status and a document.
func JSON(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Text answers 200 with something of another type.
func Text(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}
}

// Redirect answers with a redirect.
func Redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// Hang never answers; it ends when the client leaves.
func Hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Reset breaks the connection instead of answering.
func Reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset rather than an end
	}
	_ = conn.Close()
}

// Raw answers with bytes that need not be HTTP.
func Raw(b string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, b)
		_ = conn.Close()
	}
}

// Stream sends events one after the other, each flushed, then does what end
// says (nothing if nil).
func Stream(end http.HandlerFunc, events ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range events {
			if _, err := io.WriteString(w, e); err != nil {
				return
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
		}
		if end != nil {
			end(w, r)
		}
	}
}

// Abort breaks off an answer that has begun.
func Abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Endless sends an event every few milliseconds until the client leaves.
func Endless(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := 0; ; i++ {
		if _, err := fmt.Fprintf(w, "data: {\"n\":%d}\n\n", i); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
