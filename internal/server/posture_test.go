package server_test

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/audit/tlog"
	"github.com/countersign/countersign/internal/posture/bundle"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

func (p *process) posture(t testing.TB, only ...string) (out map[string]client.Evidence, event string) {
	t.Helper()
	run, err := client.New(p.url, p.token).WithReason("test").RunPosture(t.Context(), only...)
	if err != nil {
		t.Fatal(err)
	}
	out = map[string]client.Evidence{}
	for _, e := range run.Evidence {
		out[e.Predicate] = e
	}
	return out, run.Event
}

func checkOf(t testing.TB, e client.Evidence, name string) client.PostureCheck {
	t.Helper()
	for _, c := range e.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("%s has no check %q", e.Predicate, name)
	return client.PostureCheck{}
}

// An empty system has no data anywhere: nothing passes, and nothing fails.
func TestPostureOfAnEmptySystem(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		p := start(t, t.TempDir(), dsn, "")
		all, _ := p.posture(t)
		if len(all) != 12 {
			t.Errorf("%d predicates", len(all))
		}
		for id, e := range all {
			if e.Result != "NO_DATA" {
				t.Errorf("%s is %s (%s): %+v", id, e.Result, e.Reason, e.Checks)
			}
			if e.Reason == "" {
				t.Errorf("%s does not say why", id)
			}
		}
		all, _ = p.posture(t) // our own traces are no data either
		for id, e := range all {
			if e.Result != "NO_DATA" {
				t.Errorf("after a run, %s is %s (%s): %+v", id, e.Result, e.Reason, e.Checks)
			}
		}
	})
}

// The probes go to every front over the network, are refused, and reach no
// upstream.
func TestPostureProbesEveryFront(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	upstream, began := hanging(t)
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	p.api(t, "PUT", "/connections/desk", map[string]any{"kind": "mcp", "owner": "olga", "url": upstream + "/mcp", "allow_private": true}, nil)
	p.grant(t, "desk")
	p.model(t, "openai", "openai", upstream, "posture-model-key-0123")
	p.model(t, "claude", "anthropic", upstream, "posture-other-key-0123")
	all, event := p.posture(t)
	for _, name := range []string{"no credential", "forged token", "expired", "wrong audience", "out of grant"} {
		if c := checkOf(t, all["E7"], name); c.Result != "PASS" || c.Evaluated != c.Population || !c.Canary.Caught {
			t.Errorf("%+v", c)
		}
	}
	if !strings.HasPrefix(event, "evt_") {
		t.Errorf("the run's event is %q", event)
	}
	select {
	case <-began:
		t.Error("a probe reached the upstream")
	default:
	}
	agents, err := client.New(p.url, p.token).Agents(t.Context())
	if err != nil || len(agents) != 1 {
		t.Errorf("the throwaway agent is still there: %v", agents)
	}
}

// A bundle verifies with the log's public key alone; changed in any one byte it is
// refused, and the place is said.
func TestABundleOfEvidence(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process")
	}
	upstream, _ := hanging(t)
	p := start(t, t.TempDir(), storagetest.SQLite(t), "")
	p.company(t)
	p.model(t, "openai", "openai", upstream, "posture-model-key-0123")
	c := client.New(p.url, p.token).WithReason("test")
	if _, err := c.ExportEvidence(t.Context()); err == nil || !strings.Contains(err.Error(), "no evidence yet") {
		t.Errorf("without any evidence: %v", err)
	}
	p.posture(t)
	body, err := c.ExportEvidence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := c.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.kill() // nothing of it is needed any more
	s, err := bundle.Verify(b, keys.First)
	if err != nil || !s.Trusted || s.Evidence != 12 || s.Results["NO_DATA"] == 0 || len(s.Files) < 9 {
		t.Fatalf("%+v, %v", s, err)
	}
	if s, err := bundle.Verify(b, ""); err != nil || s.Trusted {
		t.Errorf("without a key: %+v, %v", s, err)
	}
	if _, err := bundle.Verify(b, strangersKey(t)); err == nil {
		t.Error("another log's key is taken")
	}
	changed := func(at int) {
		bad := slices.Clone(b)
		bad[at] ^= 1
		_, err := bundle.Verify(bad, keys.First)
		e, ok := errors.AsType[*bundle.Error](err)
		if !ok || int64(at) < e.From || int64(at) >= e.To {
			t.Fatalf("byte %d of %d: %v", at, len(b), err)
		}
	}
	for at := 0; at < len(b); at += 1 + len(b)/400 {
		changed(at)
	}
	for at := len(b) - 1024 - 2048; at < len(b); at += 5 { // the signature and the end
		changed(at)
	}
	for _, bad := range [][]byte{b[:len(b)-1], append(slices.Clone(b), 0), b[:len(b)/2], {}, []byte("no archive")} {
		if _, err := bundle.Verify(bad, keys.First); err == nil {
			t.Errorf("%d bytes are taken", len(bad))
		}
	}
	tr := tar.NewReader(bytes.NewReader(b)) // everybody's tar reads it
	var names []string
	for {
		h, err := tr.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
	}
	for _, want := range []string{"report.html", "evidence.json", "oscal-assessment-results.json", "ocsf-compliance-findings.jsonl", "cyclonedx-inventory.json", "proofs/key.proof", "signature.note"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in it: %v", want, names)
		}
	}
}

func strangersKey(t *testing.T) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := tlog.NewSigner("elsewhere.example/log", private)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
