package server

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/detection"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/secrets/rotation"
)

func (h *house) buildDetection(_ context.Context, log *slog.Logger) error {
	seed := h.secrets.Derive("detection/values/v1")
	var err error
	h.detection, err = detection.New(h.db, h.log, h.watch, detection.Options{Findings: h.findings, Locks: h.locks, Labels: h.agentLabels, Rotate: h.rotateDetected,
		Seed: binary.BigEndian.Uint64(seed), Logger: log})
	return err
}

// agentLabels are the labels of an agent as detection's limits name them.
func (h *house) agentLabels(name string) []string {
	a, ok := h.identity.Agent(name)
	if !ok || len(a.Labels) == 0 {
		return nil
	}
	out := make([]string, 0, len(a.Labels))
	for k, v := range a.Labels {
		out = append(out, k+"="+v)
	}
	return out
}

// detectionPosture is what detection asks for an agent's calls.
func (h *house) detectionPosture(ctx context.Context, agent string) (gateway.Posture, error) {
	p, err := h.detection.Posture(ctx, agent)
	return gateway.Posture(p), err
}

// rotateDetected begins to replace the upstream secret of a connection whose use
// elsewhere was detected.
func (h *house) rotateDetected(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, connection string) error {
	c, ok := h.connections.Connection(connection)
	if !ok || c.Secret == "" {
		return fault.New(fault.NotFound, "no_secret", "the connection has no secret that could be replaced")
	}
	_, err := h.rotation.RotateTx(ctx, tx, by, reason, c.Secret, true)
	if errors.Is(err, rotation.ErrNoRotator) {
		return fault.New(fault.Invalid, "by_hand", "its secret has no rotator: replace it at the provider, then countersign secret put "+c.Secret)
	}
	return err
}
