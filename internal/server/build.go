package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/export"
	"github.com/countersign/countersign/internal/audit/seal"
	"github.com/countersign/countersign/internal/audit/search"
	"github.com/countersign/countersign/internal/audit/selfaudit"
	"github.com/countersign/countersign/internal/backup"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/channels"
	"github.com/countersign/countersign/internal/config"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/console"
	"github.com/countersign/countersign/internal/detection"
	"github.com/countersign/countersign/internal/endorsements"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/flow"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/egress"
	"github.com/countersign/countersign/internal/gateway/llm"
	"github.com/countersign/countersign/internal/gateway/mcp"
	"github.com/countersign/countersign/internal/gateway/mcp/stdio"
	"github.com/countersign/countersign/internal/gateway/reach"
	"github.com/countersign/countersign/internal/gateway/retrieval"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/incident"
	"github.com/countersign/countersign/internal/inspection"
	"github.com/countersign/countersign/internal/inventory"
	"github.com/countersign/countersign/internal/job"
	"github.com/countersign/countersign/internal/knowledge"
	"github.com/countersign/countersign/internal/leaks"
	"github.com/countersign/countersign/internal/lifecycle"
	"github.com/countersign/countersign/internal/locks"
	"github.com/countersign/countersign/internal/manifest"
	"github.com/countersign/countersign/internal/passkeys"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/posture"
	"github.com/countersign/countersign/internal/pseudonyms"
	"github.com/countersign/countersign/internal/releases"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/runs"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/lease"
	"github.com/countersign/countersign/internal/secrets/rotation"
	"github.com/countersign/countersign/internal/signin"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/tokens"
	"github.com/countersign/countersign/internal/tokens/oauth"
	"github.com/countersign/countersign/internal/undo"
	"github.com/countersign/countersign/internal/use"
)

// house is every room of a running server.
type house struct {
	cfg     config.Config
	version string
	logger  slog.Handler

	db          *storage.DB
	watch       *storage.Watcher
	scanner     *inspection.Scanner
	keeper      *secrets.Keys
	log         *audit.Log
	locks       *locks.Service
	budgets     *budget.Service
	undo        *undo.Service
	use         *use.Service
	releases    *releases.Service
	detection   *detection.Service
	leaks       *leaks.Service
	digests     *leaks.Digests
	borrowed    *borrowed
	search      *search.Service
	seal        *seal.Service
	export      *export.Service
	selfaudit   *selfaudit.Service
	findings    *findings.Service
	secrets     *secrets.Service
	rekeyer     *secrets.Rekeyer
	backup      *backup.Service
	inventory   *inventory.Service
	posture     *posture.Service
	incident    *incident.Service
	leases      *lease.Service
	rotation    *rotation.Service
	identity    *identity.Service
	tokens      *tokens.Service
	oauth       *oauth.Front
	signin      *signin.Service
	passkeys    *passkeys.Service
	lifecycle   *lifecycle.Service
	reviews     *reviews.Service
	front       atomic.Pointer[string] // where this process reaches its own first door
	connections *connections.Service
	policy      *policy.Service
	approvals   *approvals.Service
	channels    *channels.Service
	flow        *flow.Service
	endorsed    *endorsements.Service
	stand       *pseudonyms.Service
	runs        *runs.Service
	manifest    *manifest.Service
	gateway     *gateway.Gateway
	llm         *llm.Front
	mcp         *mcp.Front
	http        *egress.Front
	proxy       *egress.Proxy
	knowledge   *knowledge.Service
	retrieval   *retrieval.Front
	reach       *reach.Service
	api         http.Handler
	console     *console.Console
	doorman     *doorman

	closers []closer // in the order things were built
}

type closer struct {
	name string
	fn   func(context.Context) error
}

func (h *house) onClose(name string, fn func(context.Context) error) {
	h.closers = append(h.closers, closer{name, fn})
}

// close stops everything, what was built last first.
func (h *house) close(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), h.cfg.Limits.ShutdownWait+5*time.Second)
	defer cancel()
	for i := len(h.closers) - 1; i >= 0; i-- {
		if err := h.closers[i].fn(ctx); err != nil {
			log.Error("stopping "+h.closers[i].name, "error", err)
		}
	}
	h.closers = nil
}

// build opens the store and builds each room. What was built is closed again
// if a later part fails.
func build(ctx context.Context, cfg config.Config, version string, log *slog.Logger) (*house, error) {
	h := &house{cfg: cfg, version: version, logger: log.Handler()}
	for _, step := range []struct {
		name string
		fn   func(context.Context, *slog.Logger) error
	}{
		{"store", h.buildStore},
		{"log", h.buildLog},
		{"secrets", h.buildSecrets},
		{"rooms", h.buildRooms},
		{"approvals", h.buildApprovals},
		{"credentials", h.buildCredentials},
		{"run memory", h.buildFlow},
		{"detection", h.buildDetection},
		{"line", h.buildLine},
		{"lifecycle", h.buildLifecycle},
		{"reviews", h.buildReviews},
		{"undo", h.buildUndo},
		{"background work", h.start},
		{"posture", h.buildPosture},
		{"incidents", h.buildIncident},
		{"API", h.buildAPI},
		{"console", h.buildConsole},
	} {
		if err := step.fn(ctx, log.With("part", step.name)); err != nil {
			h.close(log)
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return h, nil
}

func (h *house) buildStore(ctx context.Context, log *slog.Logger) error {
	if err := os.MkdirAll(h.cfg.Data, 0o700); err != nil {
		return err
	}
	db, err := storage.Open(ctx, h.cfg.Store)
	if err != nil {
		return err
	}
	h.db = db
	h.onClose("store", func(context.Context) error { return db.Close() })
	h.watch = storage.NewWatcher(db, log)
	return nil
}

// buildLog opens the ledger. Nothing before it can do anything that would have
// to be recorded.
func (h *house) buildLog(ctx context.Context, log *slog.Logger) error {
	h.scanner = inspection.New()
	keeper, err := secrets.OpenKeys(ctx, h.cfg.Key, h.cfg.KeyNext)
	if err != nil {
		return err
	}
	h.keeper = keeper
	h.onClose("key", func(context.Context) error { return keeper.Close() })
	l, err := audit.Open(ctx, h.db, audit.Options{Redactor: h.scanner, Keeper: keeper, Alert: h.notice, Check: h.signedDecision, Logger: log})
	if err != nil {
		return err
	}
	h.log = l
	h.onClose("log", l.Close)
	return nil
}

// notice opens a finding in the change of the ledger that someone must see.
func (h *house) notice(ctx context.Context, tx *audit.Tx, a audit.Alert) error {
	return h.findings.OpenTx(ctx, tx, findings.Finding{Rule: a.Rule, Severity: findings.Medium, Object: a.Object, Title: a.Title, Detail: a.Detail})
}

// buildSecrets opens what seals, and teaches the scanner every secret we hold
// before anything else can be written.
func (h *house) buildSecrets(ctx context.Context, log *slog.Logger) error {
	s, err := secrets.New(h.db, h.log, h.watch, h.keeper, secrets.Options{Matcher: h.teach(), Logger: log})
	if err != nil {
		return err
	}
	h.secrets = s
	h.onClose("leases given back", h.settleLeases)
	h.onClose("secrets", s.Close)
	return nil
}

func (h *house) buildRooms(_ context.Context, log *slog.Logger) error {
	var err error
	h.findings = findings.New(h.db, h.log, time.Now)
	h.locks = locks.New(h.db, h.log, h.watch, locks.Options{Known: h.known, Logger: log})
	if h.budgets, err = budget.New(h.db, h.log, h.watch, budget.Options{Known: h.known, Findings: h.findings, Logger: log}); err != nil {
		return err
	}
	h.onClose("budgets", h.budgets.Close)
	if h.identity, err = identity.New(h.db, h.log, h.watch, identity.Options{Derive: h.secrets.Derive, Locks: h.locks, Logger: log}); err != nil {
		return err
	}
	if h.connections, err = connections.New(h.db, h.log, h.watch, h.findings, connections.Options{Redactor: h.scanner, Instructs: h.instructs, Logger: log}); err != nil {
		return err
	}
	h.policy, err = policy.New(h.db, h.log, h.watch, tools{h.connections}, policy.Options{Logger: log, Findings: h.findings, Agents: h.policyAgent, All: h.policyAgents, Matched: h.matched, People: h.policyUser})
	if err != nil {
		return err
	}
	if h.knowledge, err = knowledge.New(h.db, h.log, h.connections, time.Now); err != nil {
		return err
	}
	if err := h.buildTokens(log); err != nil {
		return err
	}
	if err := h.buildSignIn(log); err != nil {
		return err
	}
	h.buildLeaks(log)
	h.buildReleases(log)
	h.identity.OnDelete(h.connections.KeepOwners)
	h.identity.OnDelete(h.secrets.KeepOwners)
	h.connections.OnDelete(h.secrets.KeepConnections)
	h.identity.OnDelete(h.policy.BeforeDelete)
	h.connections.OnDelete(h.policy.BeforeDelete)
	return nil
}

// tools shows policy the tools of all connections.
type tools struct{ *connections.Service }

func (t tools) ToolTypes() []policy.ToolType {
	types := t.Service.ToolTypes()
	out := make([]policy.ToolType, len(types))
	for i, tt := range types {
		out[i] = policy.ToolType(tt)
	}
	return out
}

func (h *house) policyAgent(name string) (policy.Agent, bool) {
	a, ok := h.identity.Agent(name)
	return policy.Agent{Name: a.Name, Team: a.Team, Stage: a.Stage, Owner: a.Owner, Labels: a.Labels}, ok
}

func (h *house) policyUser(a audit.Actor) (policy.User, bool) {
	p, ok := h.identity.Person(a)
	return policy.User{ID: p.ID, Name: p.Name, Issuer: p.Issuer, Role: p.Role, Groups: p.Groups, Teams: p.Teams}, ok
}

// buildLine builds the gateway and its fronts.
func (h *house) buildLine(_ context.Context, log *slog.Logger) error {
	h.gateway = gateway.New(gateway.Options{
		Authenticator: standing{h.identity, h.rolledBack}, Decider: h.policy, Ledger: h.log, Injector: h.secrets, Redactor: h.scanner, Scanner: h.scanner, Locks: h.locks, Trap: h.leaks.Tripped, Approvals: h.approvals, Budgets: h.budgets, Flow: h.flow, Runs: h.runs, Named: h.connections.Named, Rates: h.connections, Releases: h.releases, Posed: h.connections.Posed, Logger: log,
		Endorsements: h.endorsed, Readers: h.readers, Pseudonyms: h.stand,
		IdleTimeout: h.cfg.Limits.IdleStream, Used: h.connections.Used, Posture: h.detectionPosture,
	})
	h.onClose("gateway", h.gateway.Close)
	h.locks.Enforce(h.gateway.Cut)
	h.locks.Enforce(h.endLeases)
	// After the rooms' own: the views are new when the gateway looks.
	for _, version := range []string{identity.Version, locks.Version, tokens.Version, releases.Version} {
		h.watch.On(version, func(context.Context) error { h.gateway.Recheck(); return nil })
	}
	children := stdio.New(stdio.Options{Injector: h.secrets, Ledger: h.log, Redact: h.scanner.Redact, Logger: log})
	h.onClose("MCP servers", func(context.Context) error { children.Close(); return nil })
	h.gateway.Stdio(children)
	desk := retrieval.NewDesk(retrieval.DeskOptions{Gateway: h.gateway, Injector: h.secrets, Registry: h.connections, Knowledge: h.knowledge, Version: h.version, Logger: log})
	h.gateway.Retrieval(desk)
	h.retrieval = retrieval.New(retrieval.Options{Gateway: h.gateway, Registry: h.connections, ReadTimeout: h.cfg.Limits.ReadTimeout})
	h.llm = llm.New(llm.Options{Gateway: h.gateway, Registry: h.connections, Logger: log, MaxBody: h.cfg.Limits.ModelBody, ReadTimeout: h.cfg.Limits.ReadTimeout})
	h.http = egress.New(egress.Options{Gateway: h.gateway, Registry: h.connections, Logger: log, MaxBody: h.cfg.Limits.APIBody, ReadTimeout: h.cfg.Limits.ReadTimeout})
	var err error
	if h.proxy, err = egress.NewProxy(egress.ProxyOptions{Front: h.http, Seed: h.secrets.Derive("proxy/ca/v1"), Door: h.door, Logger: log}); err != nil {
		return err
	}
	h.onClose("proxy", func(context.Context) error { h.proxy.Close(); return nil })
	h.mcp = mcp.New(mcp.Options{
		Line: h.gateway, Registry: h.connections, Key: h.secrets.Derive("mcp/session/v1"), MaxBody: h.cfg.Limits.ToolBody, ReadTimeout: h.cfg.Limits.ReadTimeout, Version: h.version, Logger: log,
		Challenge: h.challenge, Grants: wishes{h}, Scopes: statements{h},
	})
	h.onClose("MCP front", func(context.Context) error { h.mcp.Close(); return nil })
	h.connections.SetDiscoverer(h.mcp)
	h.reach = reach.New(reach.Options{Line: h.gateway, Tools: h.connections, MCP: h.mcp, Engines: desk, Uses: h.uses, Claims: h.secrets.Claims, Redact: h.scanner.Redact})
	return nil
}

// door returns the front of connections of a kind that a proxied request is for.
func (h *house) door(kind string) http.Handler {
	switch kind {
	case connections.LLM:
		return h.llm
	case connections.MCP:
		return h.mcp
	}
	return http.NotFoundHandler()
}

// start begins the work in the background, when everything that it feeds is
// there. The first look at the store fails the start if it fails.
func (h *house) start(ctx context.Context, log *slog.Logger) error {
	if err := h.watch.Start(ctx); err != nil {
		return err
	}
	h.onClose("watcher", func(context.Context) error { h.watch.Stop(); return nil })
	if err := h.run(ctx, running{"locks", h.locks}, running{"reservations", h.budgets}, running{"leaks", h.leaks}, running{"identity", h.identity}, running{"tokens", h.tokens}); err != nil {
		return err
	}
	if err := h.startSignIn(ctx); err != nil {
		return err
	}
	if err := h.run(ctx, running{"lifecycle", h.lifecycle}); err != nil {
		return err
	}
	if err := h.startApprovals(ctx); err != nil {
		return err
	}
	var err error
	if h.search, err = search.New(h.db, h.log, search.Options{Logger: log, Owns: h.owns}); err != nil {
		return err
	}
	if err := h.run(ctx, running{"undo", h.undo}, running{"canaries", h.releases.NewJudge()}, running{"reviews", h.reviews}, running{"last uses", h.connections},
		running{"looking at tools", connections.NewPoller(h.db, h.connections, h.cfg.Tools.Recheck)}, running{"search", h.search}); err != nil {
		return err
	}
	if err := h.startUse(ctx, log); err != nil {
		return err
	}
	if err := h.startSealing(ctx, log); err != nil {
		return err
	}
	if err := h.startCredentials(ctx); err != nil { // after sealing, which knows whether anything may be ended
		return err
	}
	if err := h.run(ctx, running{"detection", h.detection}); err != nil { // after the rotation that it may begin
		return err
	}
	return h.startExport(ctx, log)
}

// running is background work under a name.
type running struct {
	name string
	job.Service
}

// run starts background work in its order; what was started is stopped at the end.
func (h *house) run(ctx context.Context, all ...running) error {
	for _, r := range all {
		if err := r.Start(ctx); err != nil {
			return err
		}
		h.onClose(r.name, r.Stop)
	}
	return nil
}

// startSealing builds the Merkle tree over the log from here on. The newest
// checkpoint stands beside the database too, so that an old copy of the
// database is noticed.
func (h *house) startSealing(ctx context.Context, log *slog.Logger) error {
	sealer, err := seal.NewSealer(h.secrets.Derive("log/key/v1"))
	if err != nil {
		return err
	}
	o := seal.Options{Sealer: sealer, HeadFile: filepath.Join(h.cfg.Data, "checkpoint"), Logger: log, Alert: h.alert}
	for _, w := range h.cfg.Witnesses {
		o.Witnesses = append(o.Witnesses, seal.Witness(w))
	}
	if h.seal, err = seal.New(ctx, h.db, h.log, o); err != nil {
		return err
	}
	if err := h.seal.Start(ctx); err != nil {
		return err
	}
	h.onClose("sealing", h.seal.Stop)
	return h.startSelfAudit(ctx, log)
}

// alert makes a finding of what is wrong with the log.
func (h *house) alert(ctx context.Context, a seal.Alert) {
	f := findings.Finding{Rule: a.Rule, Severity: "critical", Object: a.Object, Title: a.Title, Detail: a.Detail}
	if err := h.findings.Open(ctx, f); err != nil {
		slog.New(h.logger).ErrorContext(ctx, "a finding could not be recorded", "rule", a.Rule, "title", a.Title, "error", err)
	}
}

// buildAPI mounts every room's operations.
func (h *house) buildAPI(_ context.Context, log *slog.Logger) error {
	var err error
	h.manifest, err = manifest.New(manifest.Options{Log: h.log, Watch: h.watch, Identity: h.identity, Connections: h.connections, Secrets: h.secrets, Policy: h.policy, Tokens: h.tokens, Channels: h.channels, Budgets: h.budgets, Detection: h.detection, Reviews: h.reviews, Logger: log})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	api := rest.New(mux, h.version, h.person, log)
	h.doorman = newDoorman(h.log)
	api.Refused = h.doorman.refused
	api.Owns = h.owns
	for _, room := range []interface{ Routes(*rest.API) }{
		h.identity,
		h.tokens,
		h.signin,
		h.passkeys,
		h.lifecycle,
		h.reviews,
		h.locks,
		h.budgets,
		h.undo,
		h.use,
		h.releases,
		h.leaks,
		h.detection,
		h.connections,
		h.reach,
		h.knowledge,
		h.policy,
		h.secrets,
		h.approvals,
		h.endorsed,
		h.channels,
		h.findings,
		h.search,
		h.seal,
		h.export,
		h.selfaudit,
		h.manifest,
		h.rekeyer,
		h.backup,
		h.inventory,
		h.posture,
		h.incident,
		h,
	} {
		room.Routes(api)
	}
	h.mountSignIn(mux)
	h.api = h.trap(mux)
	return nil
}

// buildConsole builds the pages. They reach the API as everybody does, without
// the network.
func (h *house) buildConsole(_ context.Context, log *slog.Logger) error {
	var err error
	h.console, err = console.New(console.Options{API: h.api, Key: h.secrets.Derive("console/forms/v1"), Secure: strings.HasPrefix(h.cfg.URL, "https://"),
		Provider: h.cfg.OIDC.Issuer != "", Log: h.seal.Handler(h.mayRead), Version: h.version, URL: h.cfg.URL, Logger: log})
	return err
}
