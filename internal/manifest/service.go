package manifest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/budget"
	"github.com/countersign/countersign/internal/channels"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/detection"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/policy"
	"github.com/countersign/countersign/internal/reviews"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/tokens"
)

// Options are the rooms that resources belong to. All but Reviews, Now and Logger are
// required.
type Options struct {
	Log         *audit.Log
	Watch       *storage.Watcher
	Identity    *identity.Service
	Connections *connections.Service
	Secrets     *secrets.Service
	Policy      *policy.Service
	Tokens      *tokens.Service
	Channels    *channels.Service
	Budgets     *budget.Service
	Detection   *detection.Service
	Reviews     *reviews.Service // nil: files cannot make exceptions
	Now         func() time.Time
	Logger      *slog.Logger
}

// Service applies and exports. It is safe for concurrent use.
type Service struct{ o Options }

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.Log == nil || o.Watch == nil || o.Identity == nil || o.Connections == nil || o.Secrets == nil || o.Policy == nil || o.Tokens == nil || o.Channels == nil || o.Budgets == nil || o.Detection == nil {
		return nil, errors.New("manifest: every room is required")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{o}, nil
}

// The ways an Apply ends.
const (
	Planned = "planned" // asked only what would happen
	Refused = "refused" // there are problems, and nothing was changed
	Applied = "applied" // everything was changed that had to be
	Partly  = "partly"  // connections and what they need are there; the rest has problems
)

// Result is what Apply did or found.
type Result struct {
	Outcome  string    `json:"outcome" enum:"planned,refused,applied,partly"`
	Changes  []Change  `json:"changes"`
	Warnings []string  `json:"warnings"`
	Problems []Problem `json:"problems"`
}

// Request is what to apply.
type Request struct {
	Files   []File
	Secrets map[string]secrets.Value // by the name of the Secret
	DryRun  bool                     // everything is tried and nothing is kept
}

// errUndone rolls a transaction back that was only a try.
var errUndone = errors.New("manifest: tried and undone")

// Apply makes what there is follow the files, or finds out what that would
// change. Problems in the files are part of the result, not an error.
func (s *Service) Apply(ctx context.Context, by audit.Actor, reason string, req Request) (Result, error) {
	resources, problems := Parse(req.Files)
	if problems = append(problems, strangers(resources, req.Secrets)...); len(problems) > 0 {
		return refusal(nil, problems), nil
	}
	if err := s.o.Watch.Poll(ctx); err != nil {
		return Result{}, err
	}
	p, err := s.plan(ctx, resources, req.Secrets)
	if err != nil {
		return Result{}, err
	}
	if len(p.problems) > 0 {
		return refusal(p, p.problems), nil
	}
	if strings.TrimSpace(reason) == "" {
		reason = fmt.Sprintf("applied from %d files", len(req.Files))
	}
	run := &run{s: s, by: by, reason: reason, values: req.Secrets, dry: req.DryRun}
	if p.fresh || len(p.waiting) > 0 {
		return run.twice(ctx, p, resources)
	}
	if err := run.apply(ctx, p, Kinds); err != nil {
		return run.failed(p, Refused, err)
	}
	return run.done(p, Applied), nil
}

// strangers finds values for secrets that are not in the files.
func strangers(resources []Resource, values map[string]secrets.Value) []Problem {
	var problems []Problem
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !slices.ContainsFunc(resources, func(r Resource) bool { return r.Kind == KindSecret && r.Name == name && !r.Absent }) && len(resources) > 0 {
			problems = append(problems, Problem{Message: fmt.Sprintf("a value was sent for the secret %q, which is in no file", cut(name))})
		}
	}
	return problems
}

func refusal(p *plan, problems []Problem) Result {
	r := Result{Outcome: Refused, Changes: []Change{}, Warnings: []string{}, Problems: problems}
	if p != nil {
		r.Changes, r.Warnings = append(r.Changes, p.changes...), unique(p.warnings)
	}
	return r
}

// run is one Apply under way.
type run struct {
	s      *Service
	by     audit.Actor
	reason string
	values map[string]secrets.Value
	dry    bool
}
