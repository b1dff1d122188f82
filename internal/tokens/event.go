package tokens

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
)

// detail returns v as the JSON object of an event. It is only given maps and
// structs of plain values, which always marshal.
func detail(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil
	}
	return b
}

func event(t audit.Type, by audit.Actor, reason, object string, v any) audit.Event {
	ev := audit.Event{Type: t, Actor: by, Object: object, Reason: reason}
	if v != nil {
		ev.Detail = detail(v)
	}
	return ev
}

// about names an agent in an event.
func about(ev audit.Event, a identity.Agent) audit.Event {
	ev.Agent, ev.Owner, ev.Team, ev.Stage = a.Name, a.Owner, a.Team, a.Stage
	return ev
}

func checkReason(reason string, must bool) error {
	if must && strings.TrimSpace(reason) == "" {
		return ErrReason
	}
	if len(reason) > 4000 || utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) {
		return ErrReason
	}
	return nil
}

// refusals bounds how many refusals are recorded: a flood must not fill the
// log. What is over the rate is counted and told with the next one.
type refusals struct {
	limit *rate.Limiter
	mu    sync.Mutex
	more  int64
}

// Refusal describes a request that was refused, for the log. Nothing of it was
// proved.
type Refusal struct {
	Door   string // "token", "authorize", …
	Grant  string // grant type
	Agent  string // as claimed
	Remote string
	Client string // User-Agent
}

// Refused records a refusal with its whole cause. What the client claimed is
// cut short.
func (s *Service) Refused(_ context.Context, r Refusal, err error) {
	s.refused.mu.Lock()
	if !s.refused.limit.Allow() {
		s.refused.more++
		s.refused.mu.Unlock()
		return
	}
	more := s.refused.more
	s.refused.more = 0
	s.refused.mu.Unlock()
	public := fault.Public(err)
	if public.Kind == fault.Internal {
		s.logger.Error("a token request failed", "error", err)
	}
	s.log.Later(audit.Event{
		Type: audit.AuthRefused, Actor: audit.Actor{Kind: audit.KindAgent}, Object: "oauth2/" + r.Door, Remote: r.Remote, Client: cut(r.Client, 200),
		Detail: detail(struct {
			Claims string `json:"claims_to_be,omitzero"`
			Code   string `json:"code"`
			Grant  string `json:"grant,omitzero"`
			Why    string `json:"why"`
			More   int64  `json:"unrecorded_before,omitzero"`
		}{cut(r.Agent, 200), public.Code, cut(r.Grant, 100), cut(err.Error(), 500), more}),
	})
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
