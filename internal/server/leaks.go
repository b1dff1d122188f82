package server

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/leaks"
	"github.com/countersign/countersign/internal/secrets"
)

// teach returns what learns every upstream secret: the redactor, what
// recognises reports of leaks, and what knows people's tokens among them.
func (h *house) teach() secrets.Matcher {
	h.digests, h.borrowed = leaks.NewDigests(), newBorrowed()
	return all{h.scanner.Known(), h.digests, h.borrowed}
}

type all []secrets.Matcher

func (b all) Add(name string, value []byte) {
	for _, m := range b {
		m.Add(name, value)
	}
}

func (b all) Remove(name string) {
	for _, m := range b {
		m.Remove(name)
	}
}

func (h *house) buildLeaks(log *slog.Logger) {
	h.leaks = leaks.New(leaks.Options{
		DB: h.db, Log: h.log, Watch: h.watch, Identity: h.identity, Locks: h.locks, Findings: h.findings, Digests: h.digests,
		Key: h.secrets.Derive("leaks/canary/v1"), GitHubKeys: h.cfg.Leaks.GitHubKeys, Logger: log,
		RevokeAccess: h.tokens.RevokeLeakedTx,
		Rotate:       h.rotateLeaked,
		Owner:        func(name string) string { s, _ := h.secrets.Secret(name); return s.Owner },
	})
}

// trap looks for canaries among what is presented to the API.
func (h *house) trap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if token = strings.TrimSpace(token); strings.EqualFold(scheme, "Bearer") && leaks.Decoyed(token) {
			h.leaks.Tripped(token, host(r.RemoteAddr), r.UserAgent(), "api "+r.Method+" "+r.URL.Path)
		}
		next.ServeHTTP(w, r)
	})
}
