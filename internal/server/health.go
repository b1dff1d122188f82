package server

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/countersign/countersign/internal/rest"
)

// mountLine mounts what is at the doors of agents beside the fronts, which get
// paths as they were sent: see raw.
func (h *house) mountLine(mux *http.ServeMux) {
	h.oauth.Routes(mux)
	mux.Handle("/log/", h.seal.Handler(h.mayRead))
	mux.HandleFunc("GET /proxy/ca.pem", h.proxy.Root)
}

// mayRead reports whether a request comes from a signed-in person who may see
// events: entry bundles hold them.
func (h *house) mayRead(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return false
	}
	c, err := h.identity.AuthenticateUser(r.Context(), token)
	return err == nil && c.May(rest.Read)
}

// front says what is where, at an address without the console.
func front(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path != "/" {
		w.WriteHeader(http.StatusNotFound)
	}
	fmt.Fprint(w, "Countersign\n\nmodels  /llm/{connection}/...\ntools   /mcp and /mcp/{connection}\nAPIs    /http/{connection}/...\nproxy   CONNECT, /proxy/ca.pem\nAPI     /api/openapi.json\nlogin   /oauth2/token /.well-known/oauth-authorization-server\nlog     /log/checkpoint /log/tile/...\nhealth  /healthz /readyz /metrics\n")
}

// mountHealth mounts liveness (the process answers), readiness (a call could
// be recorded and locks are seen) and metrics.
func (h *house) mountHealth(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := h.ready(r.Context()); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}
