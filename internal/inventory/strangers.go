package inventory

import (
	"context"
	"encoding/json/v2"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// Stranger is somebody who calls and is not registered as an agent.
type Stranger struct {
	Remote     string    `json:"remote" doc:"network address"`
	Client     string    `json:"client,omitempty" doc:"what the program calls itself (User-Agent)"`
	Connection string    `json:"connection,omitempty" doc:"what it last asked for"`
	Why        string    `json:"why" doc:"why it was refused"`
	Calls      int64     `json:"calls" doc:"refused, of those looked at"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
}

// How far back strangers are looked for.
const (
	strangerDays  = 30
	strangerPages = 5 // of a thousand events
	maxStrangers  = 500
)

// Strangers lists who called in the last 30 days with a credential that is no
// agent's, or none, latest first: by network address and program. Refusals are
// recorded by network and minute, so programs that share an address may be
// counted as the last of them.
func (s *Service) Strangers(ctx context.Context) ([]Stranger, error) {
	type key struct{ remote, client, why string }
	found := map[key]*Stranger{}
	q := audit.Query{Types: []audit.Type{audit.AuthRefused}, Since: s.o.Now().Add(-strangerDays * 24 * time.Hour), Limit: 1000}
	for range strangerPages {
		page, err := s.o.Log.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			ev := r.Event
			if ev.Agent != "" || strings.HasPrefix(ev.Object, "api/") {
				continue
			}
			var d struct {
				Code  string `json:"code"`
				Count int64  `json:"count"`
			}
			if json.Unmarshal(ev.Detail, &d) != nil || d.Count < 1 {
				d.Count = 1
			}
			k := key{ev.Remote, ev.Client, d.Code}
			if x := found[k]; x != nil {
				x.Calls, x.First = x.Calls+d.Count, ev.Time
			} else if len(found) < maxStrangers {
				found[k] = &Stranger{Remote: ev.Remote, Client: ev.Client, Connection: ev.Connection, Why: d.Code, Calls: d.Count, First: ev.Time, Last: ev.Time}
			}
		}
		if len(page) < q.Limit {
			break
		}
		q.After = page[len(page)-1].Event.ID
	}
	out := make([]Stranger, 0, len(found))
	for _, x := range found {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b Stranger) int { return b.Last.Compare(a.Last) })
	return out, nil
}
