package providers

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Fault makes a server misbehave for the next requests of a method.
type Fault struct {
	mu     sync.Mutex
	method string
	lose   bool // do it, but do not answer
	times  int
}

// Set makes the next n requests of a method fail: their answers are lost after
// they took effect, or, if lose is false, they are refused before.
func (f *Fault) Set(method string, lose bool, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.method, f.lose, f.times = method, lose, n
}

func (f *Fault) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		hit := f.times > 0 && f.method == r.Method
		lose := f.lose
		if hit {
			f.times--
		}
		f.mu.Unlock()
		switch {
		case hit && lose:
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case hit:
			http.Error(w, `{"error": "overloaded"}`, http.StatusServiceUnavailable)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

func start(tb testing.TB, h http.Handler) string {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	return s.URL
}
