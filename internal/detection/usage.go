package detection

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// usageKey is an hour of a model on a connection.
type usageKey struct {
	connection, model string
	hour              int64 // since 1970
}

func (k usageKey) compare(o usageKey) int {
	return cmp.Or(cmp.Compare(k.connection, o.connection), cmp.Compare(k.model, o.model), cmp.Compare(k.hour, o.hour))
}

type usageSum struct{ tokens, calls int64 }

// mostTokens bounds what one answer can say that it used.
const mostTokens = 1_000_000_000

// used adds what a call used, for comparison with the provider's bill.
func (f *follower) used(ev *audit.Event) {
	if ev.Type != audit.CallOutcome || ev.Outcome == nil || ev.Outcome.Usage == nil {
		return
	}
	u := ev.Outcome.Usage
	k := usageKey{ev.Connection, family(u.Model), ev.Time.Unix() / 3600}
	sum := f.usage[k]
	sum.tokens += min(max(u.Input, 0), mostTokens) + min(max(u.Output, 0), mostTokens)
	sum.calls++
	f.usage[k] = sum
}

var dated = regexp.MustCompile(`-(20\d\d-\d\d-\d\d|20\d{6})$`)

// family is a model without the date of its version, which bills and answers
// name differently.
func family(model string) string { return dated.ReplaceAllString(clip(model, 100), "") }

// Used is what a provider says was used of a model in an hour.
type Used struct {
	Connection string    `json:"connection" maxLength:"63"`
	Model      string    `json:"model" maxLength:"100"`
	Hour       time.Time `json:"hour" doc:"when it began"`
	Tokens     int64     `json:"tokens" minimum:"0" doc:"in and out together"`
}

// Compared is a provider's bill beside the log.
type Compared struct {
	ID         string    `json:"id" doc:"connection and model"`
	Connection string    `json:"connection"`
	Model      string    `json:"model"`
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`
	Provider   int64     `json:"provider" doc:"tokens by the provider's account"`
	Log        int64     `json:"log" doc:"tokens by the log, an hour more on either side"`
	Surplus    int64     `json:"surplus" doc:"tokens that no call in the log used, beyond what measuring may differ by"`
}

// What a bill may differ by without meaning anything.
const (
	slackTokens  = 1000
	slackPercent = 3
	maxUsed      = 20_000
)

// Reconcile compares a provider's account with the log. What was used without a
// call in the log was used by somebody else with the connection's secret: it is
// recorded, and the rule provider.surplus acts. Needs a reason.
func (s *Service) Reconcile(ctx context.Context, by audit.Actor, reason string, rows []Used) ([]Compared, error) {
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	if len(rows) == 0 || len(rows) > maxUsed {
		return nil, ErrUsage.Say("give 1 to %d hours of use", maxUsed)
	}
	all := map[[2]string]*Compared{}
	for i, r := range rows {
		if r.Connection == "" || r.Model == "" || r.Hour.IsZero() || r.Tokens < 0 || r.Tokens > 1e15 {
			return nil, ErrUsage.Say("row %d: needs connection, model, hour and tokens", i+1)
		}
		k := [2]string{r.Connection, family(r.Model)}
		hour := r.Hour.UTC().Truncate(time.Hour)
		c := all[k]
		if c == nil {
			c = &Compared{ID: k[0] + "/" + k[1], Connection: k[0], Model: k[1], From: hour, To: hour}
			all[k] = c
		}
		if hour.Before(c.From) {
			c.From = hour
		}
		if hour.After(c.To) {
			c.To = hour
		}
		c.Provider += r.Tokens
	}
	out := make([]Compared, 0, len(all))
	for _, c := range all {
		used, err := usedTokens(ctx, s.db, c.Connection, c.Model, c.From.Unix()/3600-1, c.To.Unix()/3600+1)
		if err != nil {
			return nil, err
		}
		c.Log = used
		if c.Provider > used+used*slackPercent/100+slackTokens {
			c.Surplus = c.Provider - used
		}
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Compared) int { return cmp.Compare(a.ID, b.ID) })
	return out, s.log.Change(ctx, func(tx *audit.Tx) error {
		surplus := 0
		for _, c := range out {
			if c.Surplus == 0 {
				continue
			}
			surplus++
			ev := event(Surplus, by, "connection/"+c.Connection, reason, map[string]any{"count": c.Surplus, "model": c.Model, "provider": c.Provider, "log": c.Log})
			ev.Connection = c.Connection
			tx.Record(ev)
		}
		tx.Record(event("usage.reconciled", by, "usage", reason, map[string]any{"rows": len(rows), "compared": len(out), "surplus": surplus}))
		return nil
	})
}
