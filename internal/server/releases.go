package server

import (
	"log/slog"

	"github.com/countersign/countersign/internal/releases"
)

// buildReleases builds the room that keeps what agents are made of.
func (h *house) buildReleases(log *slog.Logger) {
	h.releases = releases.New(releases.Options{
		DB: h.db, Log: h.log, Watch: h.watch, Identity: h.identity, Connections: h.connections, Policy: h.policy, Locks: h.locks, Findings: h.findings, Logger: log,
	})
	h.identity.OnDelete(h.releases.BeforeDelete)
}
