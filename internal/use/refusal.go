package use

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/findings"
	"github.com/countersign/countersign/internal/storage"
)

// ruleRefused is the rule of findings about calls that a right-sizing refused.
const ruleRefused = "grant.rightsized"

// missed reports whether an event may be a refusal because of a right-sizing:
// nothing allowed the call, and nothing forbade it.
func missed(ev *audit.Event) bool {
	return counts(ev) && ev.Type == audit.CallDenied && len(ev.Decision.Policies) == 0 || hidden(ev)
}

// hidden reports whether an event is a refusal of what does not exist for the agent,
// because nothing gives it: its arguments were not looked at.
func hidden(ev *audit.Event) bool {
	if ev.Type != audit.CallRefused || ev.Agent == "" || ev.Connection == "" {
		return false
	}
	var d struct {
		Code string `json:"code"`
	}
	if json.Unmarshal(ev.Detail, &d) != nil {
		return false
	}
	return d.Code == "unknown_connection" || d.Code == "unknown_tool" && ev.Tool != ""
}

// taken returns the accepted proposals that took something of what some records
// asked for in vain.
func (s *Service) taken(ctx context.Context, recs []audit.Record) ([]Proposal, error) {
	if !slices.ContainsFunc(recs, func(r audit.Record) bool { return missed(&r.Event) }) {
		return nil, nil
	}
	return s.rightsizings(ctx, `state = $1`, Accepted)
}

// about reports whether a refusal came after p was accepted, was not told of,
// and is about its grant.
func (p *Proposal) about(ev *audit.Event) bool {
	return missed(ev) && ev.Agent == p.Agent && ev.Connection == p.Before.Connection && ev.Time.After(p.Changed) && storage.Micros(ev.Time) > p.noticed &&
		(p.Before.Tools[0] == "*" || slices.Contains(p.Before.Tools, ev.Tool) || ev.Tool == "" && len(p.After) == 0)
}

// offer tells the owner of a refusal that the grant before would have allowed,
// and how to give it back.
func (s *Service) offer(ctx context.Context, taken []Proposal, rec *audit.Record) error {
	for i := range taken {
		p := &taken[i]
		if !p.about(&rec.Event) {
			continue
		}
		gave := hidden(&rec.Event) && s.o.Policy.Shows(p.Before, &rec.Event) || !hidden(&rec.Event) && s.o.Policy.Gave(p.Before, rec)
		if !gave {
			continue
		}
		err := s.log.Change(ctx, func(tx *audit.Tx) error { return s.offerTx(ctx, tx, p, &rec.Event) })
		if err != nil && !errors.Is(err, errTold) {
			return err
		}
		p.noticed = storage.Micros(rec.Event.Time)
	}
	return nil
}

var errTold = errors.New("another replica told of it")

func (s *Service) offerTx(ctx context.Context, tx *audit.Tx, p *Proposal, ev *audit.Event) error {
	err := tx.ExecOne(ctx, `UPDATE use_rightsizings SET noticed = $1 WHERE grant_name = $2 AND id = $3 AND state = $4 AND noticed < $1`, storage.Micros(ev.Time), p.Grant, p.ID, Accepted)
	if errors.Is(err, storage.ErrNotFound) {
		return errTold
	}
	if err != nil {
		return err
	}
	what := strings.TrimSuffix(ev.Connection+"/"+ev.Tool, "/")
	tx.Record(audit.Event{Type: "rightsizing.refused", Actor: audit.System, Object: "grant/" + p.Grant, Agent: p.Agent, Connection: ev.Connection, Tool: ev.Tool, Detail: detail(map[string]any{"proposal": p.ID, "event": ev.ID})})
	if s.o.Findings == nil {
		return nil
	}
	return s.o.Findings.OpenTx(ctx, tx, findings.Finding{Rule: ruleRefused, Severity: findings.Medium, Object: "grant/" + p.Grant, Events: []string{ev.ID},
		Title:  fmt.Sprintf("%s was refused %s, which grant %s gave before it was right-sized", p.Agent, what, p.Grant),
		Detail: fmt.Sprintf("The right-sizing was accepted on %s by %s. If the agent needs it, give back what was taken: countersign grant rightsize revert %s\nIf not, close this finding.\n\n%s", p.Changed.UTC().Format("2006-01-02"), p.By, p.ID, p.Diff)})
}
