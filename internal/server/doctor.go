package server

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// Check is one thing the doctor looked at.
type Check struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status" enum:"ok,warn,fail"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty" doc:"what to do about it"`
}

// Report is what the doctor found.
type Report struct {
	Version string  `json:"version"`
	Time    string  `json:"time" doc:"of the server, RFC 3339"`
	Checks  []Check `json:"checks"`
}

// Routes declares the operations that concern the whole house.
func (h *house) Routes(api *rest.API) {
	h.rotation.Routes(api)
	h.leases.Routes(api)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: "/api/v1/doctor", Summary: "Check the server's health", Tag: "server"},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*Report, error) {
			r := &Report{Version: h.version, Time: time.Now().UTC().Format(time.RFC3339)}
			for _, look := range []func(context.Context) Check{h.checkStore, h.checkView, h.checkFiles, h.checkPolicies, h.checkTools, h.checkReleases, h.checkSeal, h.checkFindings} {
				r.Checks = append(r.Checks, look(ctx))
			}
			return r, nil
		})
}

// pingWithin is how long a database may take to answer before it counts as
// unreachable: who asks for readiness must get an answer.
const pingWithin = 2 * time.Second

func (h *house) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingWithin)
	defer cancel()
	return h.db.Ping(ctx)
}

// ready reports why a call could not be governed now.
func (h *house) ready(ctx context.Context) error {
	if err := h.ping(ctx); err != nil {
		return fault.Public(err)
	}
	if !h.watch.Fresh() {
		return fault.New(fault.Unavailable, "stale", "the view of identities and policies is stale")
	}
	if !h.log.Writable() {
		return fault.New(fault.Unavailable, "log_unwritable", "the log cannot be written, so every call is refused; see the server's own log for why")
	}
	return h.rolledBack()
}

func (h *house) checkStore(ctx context.Context) Check {
	c := Check{ID: "store", Name: "database", Status: "ok", Detail: h.db.Dialect().String() + " at " + storage.Redact(h.cfg.Store)}
	if err := h.ping(ctx); err != nil {
		c.Status, c.Detail, c.Fix = "fail", fault.Public(err).Message, "start the database, or correct store"
		return c
	}
	if !h.log.Writable() {
		c.Status, c.Detail, c.Fix = "fail", "it answers, but the log cannot be written, so every call is refused", "look for a full disk or a read-only file system; the server's own log has the cause, and goes on by itself when it is gone"
	}
	return c
}

func (h *house) checkView(context.Context) Check {
	c := Check{ID: "view", Name: "view of identities and policies", Status: "ok", Detail: "less than a second old"}
	if !h.watch.Fresh() {
		c.Status, c.Detail, c.Fix = "fail", "older than a second, so every call is refused", "see the server's own log for why it cannot read the database"
	}
	return c
}

// checkFiles looks at who else on this machine may read what must be private.
func (h *house) checkFiles(context.Context) Check {
	c := Check{ID: "files", Name: "private files", Status: "ok", Detail: h.cfg.Data + " and the key are yours alone"}
	for path, mask := range map[string]os.FileMode{h.cfg.Data: 0o022, h.cfg.Key: 0o077} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&mask == 0 {
			continue // a key service has no file
		}
		c.Status, c.Detail, c.Fix = "fail", fmt.Sprintf("%s has mode %04o", path, info.Mode().Perm()), "chmod go-rwx "+path
	}
	return c
}

func (h *house) checkPolicies(context.Context) Check {
	c := Check{ID: "policies", Name: "policies", Status: "ok", Detail: "all fit the tools that exist"}
	if p := h.policy.Problems(); len(p) > 0 {
		c.Status, c.Detail = "fail", fmt.Sprintf("%d problems, the first: %s", len(p), p[0].Message)
		c.Fix = "countersign policy check shows them; until then these policies refuse"
	}
	return c
}

func (h *house) checkTools(context.Context) Check {
	c := Check{ID: "tools", Name: "tool definitions", Status: "ok"}
	total, waiting := 0, 0
	for _, conn := range h.connections.Connections() {
		for _, t := range h.connections.Tools(conn.Name) {
			total++
			if t.Status == "drifted" || t.Status == "new" {
				waiting++
			}
		}
	}
	c.Detail = fmt.Sprintf("%d tools pinned", total-waiting)
	if waiting > 0 {
		c.Status, c.Detail, c.Fix = "warn", fmt.Sprintf("%d tools changed or are new, and are refused", waiting), "countersign tool list --status drifted, then tool diff and tool accept"
	}
	return c
}

// checkReleases says whether agents reach production without a release.
func (h *house) checkReleases(context.Context) Check {
	c := Check{ID: "releases", Name: "releases in production", Status: "ok", Detail: "required: an agent in production without one makes no call"}
	if h.cfg.Releases.Required {
		return c
	}
	agents, without := 0, 0
	for _, a := range h.identity.Agents() {
		if a.Stage != identity.Production {
			continue
		}
		agents++
		if st, _ := h.releases.Standing(a.Name); st.Active == 0 {
			without++
		}
	}
	c.Detail = fmt.Sprintf("not required: %d of %d agents in production have none", without, agents)
	if agents > 0 {
		c.Status, c.Fix = "warn", "promote releases (countersign release check AGENT --to production says what is missing), then set releases.required: true"
	}
	return c
}

// sealLag is how many records may wait for the next checkpoint before that is
// worth a word.
const sealLag = 100_000

func (h *house) checkSeal(ctx context.Context) Check {
	c := Check{ID: "seal", Name: "Merkle tree", Status: "ok"}
	st, err := h.seal.Status(ctx)
	switch {
	case err != nil:
		c.Status, c.Detail = "fail", fault.Public(err).Message
	case st.Blocked != "":
		c.Status, c.Detail, c.Fix = "fail", "every call is refused: "+st.Blocked, "find out what was lost and make good the stops and revocations among it; then countersign log accept-rollback --reason ..."
	case st.Error != "":
		c.Status, c.Detail, c.Fix = "fail", st.Error, "see the server's own log"
	case st.Behind > sealLag:
		c.Status, c.Detail = "warn", fmt.Sprintf("%d records sealed, %d wait", st.Size, st.Behind)
	default:
		c.Detail = fmt.Sprintf("%d records sealed, %d wait for the next checkpoint", st.Size, st.Behind)
	}
	return c
}

func (h *house) checkFindings(ctx context.Context) Check {
	c := Check{ID: "findings", Name: "findings", Status: "ok", Detail: "none open"}
	open, err := h.findings.List(ctx, findings.Query{Status: "open", Limit: 1000})
	switch {
	case err != nil:
		c.Status, c.Detail = "fail", fault.Public(err).Message
	case len(open) > 0:
		c.Status, c.Detail, c.Fix = "warn", fmt.Sprintf("%d open", len(open)), "countersign finding list"
	}
	return c
}
