package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/backup"
	"github.com/countersign/countersign/internal/leaks"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/lease"
	"github.com/countersign/countersign/internal/secrets/provider/command"
	"github.com/countersign/countersign/internal/secrets/provider/exchange"
	"github.com/countersign/countersign/internal/secrets/provider/local"
	"github.com/countersign/countersign/internal/secrets/provider/openai"
	"github.com/countersign/countersign/internal/secrets/provider/postgres"
	"github.com/countersign/countersign/internal/secrets/provider/vault"
	"github.com/countersign/countersign/internal/secrets/provider/webhook"
	"github.com/countersign/countersign/internal/secrets/rotation"
)

// buildCredentials builds what is done to secrets over their lives: leases that
// end, and rotation.
func (h *house) buildCredentials(_ context.Context, log *slog.Logger) error {
	h.secrets.From("env", local.Env{})
	h.secrets.From("file", local.File{Dir: h.cfg.Secrets.Files})
	if v := h.cfg.Secrets.Vault; v.Address != "" {
		h.secrets.From("vault", vault.New(vault.Config{Address: v.Address, Namespace: v.Namespace, Mounts: strings.FieldsFunc(v.Mounts, func(r rune) bool { return r == ',' || r == ' ' }),
			TokenFile: v.TokenFile, RoleID: v.RoleID, SecretID: v.SecretIDFile, Private: v.AllowPrivate}, time.Now))
	}
	h.secrets.Handle("oauth", exchange.OAuth{Now: time.Now})
	h.secrets.Handle("github-app", exchange.GitHubApp{Now: time.Now})
	h.secrets.Handle("federated", exchange.Federated{Issuer: issuer{h}, Now: time.Now})
	h.backup = backup.New(backup.Options{DB: h.db, Log: h.log, Keys: h.keeper, Seal: func() *seal.Service { return h.seal }, Version: h.version, Now: time.Now})
	h.leases = lease.New(lease.Options{Held: h.backup.Held, DB: h.db, Log: h.log, Watch: h.watch, Secrets: h.secrets, Findings: h.findings, Logger: log,
		Makers: map[string]lease.Maker{"postgres": postgres.Maker{}}})
	h.rotation = rotation.New(rotation.Options{Held: h.backup.Held, DB: h.db, Log: h.log, Watch: h.watch, Secrets: h.secrets, Findings: h.findings, Logger: log,
		Rotators: map[string]rotation.Rotator{
			"postgres": postgres.Rotator{}, "openai": openai.Rotator{}, "http": webhook.Rotator{},
			"command": command.Rotator{Redact: h.scanner.Redact, Log: func(secret, line string) { log.Info("a rotation's command says", "secret", secret, "line", line) }},
		}})
	h.rekeyer = h.secrets.Rekeyer(secrets.RekeyOptions{Findings: h.findings, Replica: h.locks.Replica(), Alive: h.locks.Replicas})
	return nil
}

// issuer is our own, when somebody first needs it.
type issuer struct{ h *house }

// Assertion implements exchange.Issuer.
func (i issuer) Assertion(subject, audience string, life time.Duration) (string, time.Time, error) {
	return i.h.tokens.Assertion(subject, audience, life)
}

// startCredentials begins the work in the background.
func (h *house) startCredentials(ctx context.Context) error {
	if err := h.leases.Start(ctx); err != nil {
		return err
	}
	h.onClose("leases", h.leases.Stop)
	if err := h.rotation.Start(ctx); err != nil {
		return err
	}
	h.onClose("rotation", h.rotation.Stop)
	if err := h.rekeyer.Start(ctx); err != nil {
		return err
	}
	h.onClose("rekeying", h.rekeyer.Stop)
	return nil
}

// rotateLeaked ends a credential that others know. name is what the matcher
// knows it by: a secret's, a secret's and "#" for what was made of it, or
// "lease/" and a lease's.
func (h *house) rotateLeaked(ctx context.Context, by audit.Actor, reason, name string) error {
	if id, ok := strings.CutPrefix(name, "lease/"); ok {
		_, err := h.leases.End(ctx, by, reason, lease.Which{ID: id})
		return err
	}
	name, _, _ = strings.Cut(name, "#")
	_, err := h.rotation.Rotate(ctx, by, reason, name, true)
	if errors.Is(err, rotation.ErrNoRotator) {
		return leaks.ErrByHand
	}
	return err
}

// settleLeases waits for what the secrets gave back when they closed.
func (h *house) settleLeases(ctx context.Context) error {
	if h.leases == nil {
		return nil
	}
	return h.leases.Settle(ctx)
}

// endLeases gives back what was issued to whom a lock stops: a database role
// does not outlive the stop of its agent. A lock on something else ends no
// lease: its calls are refused, and the lease ends when its time is over.
func (h *house) endLeases(ctx context.Context, l locks.Lock) (int, error) {
	var which lease.Which
	switch l.Kind {
	case locks.Agent:
		which.Agent = l.Name
	case locks.Connection:
		which.Connection = l.Name
	case locks.Everything:
	default:
		return 0, nil
	}
	return h.leases.End(ctx, audit.System, "lock "+l.ID+": "+l.On(), which)
}
