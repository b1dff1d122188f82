package server

import (
	"encoding/json/v2"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway/egress"
	"github.com/countersign/countersign/internal/gateway/retrieval"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/rest"
)

// raw sends requests on to the fronts before any mux has changed their path: a
// mux answers "//" and ".." with a redirect, which no client of a model or a
// tool expects, and which nobody records. What lies at a path that two readers
// could read in two ways is decided by where it would lead; the fronts refuse
// it in their own form, and beside them it is refused here.
func (h *house) raw(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch at := path.Clean("/" + r.URL.Path); {
		case egress.IsProxied(r):
			h.proxy.ServeHTTP(w, r)
		case strings.HasPrefix(at+"/", "/llm/"):
			h.llm.ServeHTTP(w, r)
		case strings.HasPrefix(at+"/", "/mcp/"):
			h.mcp.ServeHTTP(w, r)
		case strings.HasPrefix(at+"/", "/http/"):
			h.http.ServeHTTP(w, r)
		case strings.HasPrefix(at+"/", retrieval.Prefix):
			h.retrieval.ServeHTTP(w, r)
		default:
			h.straight(next).ServeHTTP(w, r)
		}
	})
}

var errPath = fault.New(fault.Invalid, "bad_path", "the path may not contain empty or dot segments; send it as it is documented")

// straight refuses paths that a mux would clean into others, in the form of
// the API beneath it and in plain text elsewhere.
func (h *house) straight(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if straight(r.URL.EscapedPath()) {
			next.ServeHTTP(w, r)
			return
		}
		p := &rest.Problem{Type: "about:blank", Title: http.StatusText(http.StatusBadRequest), Status: http.StatusBadRequest,
			Code: errPath.Code, Detail: errPath.Message, Request: id.New("req")}
		h.doorman.refused(rest.Caller{Request: p.Request, Remote: host(r.RemoteAddr)}, rest.Op{Method: clip(r.Method), Path: clip(r.URL.EscapedPath())}, p)
		head := w.Header()
		head.Set("X-Request-Id", p.Request)
		head.Set("Cache-Control", "no-store")
		head.Set("X-Content-Type-Options", "nosniff")
		if !strings.HasPrefix(path.Clean("/"+r.URL.Path)+"/", "/api/") {
			head.Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(p.Status)
			_, _ = fmt.Fprintln(w, p.Detail) // a client that left needs no answer
			return
		}
		head.Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		_ = json.MarshalWrite(w, p)
	})
}

// straight reports whether an escaped path has neither empty nor dot segments,
// escaped ones included, and nothing that is a separator to some.
func straight(escaped string) bool {
	if escaped == "" || escaped == "*" { // the whole server: OPTIONS *
		return true
	}
	plain, err := url.PathUnescape(escaped)
	if err != nil || escaped[0] != '/' || strings.Contains(escaped, "//") || strings.ContainsFunc(plain, func(c rune) bool { return c < 0x20 || c == 0x7f || c == '\\' }) {
		return false
	}
	for segment := range strings.SplitSeq(plain, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

// host returns the address of a remote without its port.
func host(remote string) string {
	if h, _, err := net.SplitHostPort(remote); err == nil {
		return h
	}
	return clip(remote)
}

// clip bounds what of a request's line is recorded.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
