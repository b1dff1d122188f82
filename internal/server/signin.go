package server

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/signin"
)

// buildSignIn builds how people sign in at their identity provider.
func (h *house) buildSignIn(log *slog.Logger) error {
	o := h.cfg.OIDC
	ca, err := o.Certificates()
	if err != nil {
		return err
	}
	if o.Issuer != "" {
		if _, err := o.Secret(); err != nil {
			return err // at the start, not when the first person comes
		}
	}
	h.signin, err = signin.New(signin.Options{
		DB: h.db, Log: h.log, Watch: h.watch, Identity: h.identity, Findings: h.findings, Derive: h.secrets.Derive, Base: h.browserURL, Logger: log,
		Config: signin.Config{
			Issuer: o.Issuer, ClientID: o.ClientID, Secret: o.Secret, Scopes: o.Scopes, CA: ca, NameClaim: o.NameClaim, EmailClaim: o.EmailClaim, GroupClaim: o.GroupClaim,
			TrustEmail: o.TrustEmail, Join: o.Join, Domains: config.List(o.Domains), RequireGroup: config.List(o.RequireGroup), Roles: o.Roles, Groups: o.Groups, CheckEvery: o.CheckEvery,
		},
	})
	return err
}

// browserURL is where browsers reach the API.
func (h *house) browserURL() string {
	if h.cfg.OIDC.URL != "" {
		return strings.TrimRight(h.cfg.OIDC.URL, "/")
	}
	return h.tokens.Issuer()
}

// startSignIn begins to ask the provider who is still there.
func (h *house) startSignIn(ctx context.Context) error {
	if err := h.signin.Start(ctx); err != nil {
		return err
	}
	h.onClose("sign-in", h.signin.Stop)
	return nil
}

// mountSignIn mounts the redirect URI that the provider knows.
func (h *house) mountSignIn(mux *http.ServeMux) {
	mux.Handle("GET "+signin.CallbackPath, h.signin)
}
