package search

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

// Erasure is what an erasure did.
type Erasure struct {
	Event    string `json:"event" doc:"the event that records it"`
	Keys     int64  `json:"keys" doc:"keys destroyed"`
	Payloads int64  `json:"payloads" doc:"payloads made unreadable for ever"`
}

// Hold is a legal hold: what it covers is neither erased nor does it expire.
type Hold struct {
	ID            string    `json:"id"`
	Agent         string    `json:"agent,omitempty"`
	Run           string    `json:"run,omitempty"`
	From          time.Time `json:"from,omitzero" doc:"included"`
	To            time.Time `json:"to,omitzero" doc:"not included; absent: without end"`
	Placed        time.Time `json:"placed"`
	By            string    `json:"by"`
	Reason        string    `json:"reason"`
	Released      time.Time `json:"released,omitzero"`
	ReleasedBy    string    `json:"released_by,omitempty"`
	ReleaseReason string    `json:"release_reason,omitempty"`
}

// HoldListing is the legal holds.
type HoldListing struct {
	Holds []Hold `json:"holds" doc:"the oldest first"`
}

// Retention is how long payloads are kept. Events are kept for ever.
type Retention struct {
	Days  int `json:"days"`
	Floor int `json:"floor" doc:"fewer days than this need a reason, and open a finding"`
}

type eraseRequest struct {
	Body struct {
		Subject string `json:"subject,omitempty" maxLength:"512" doc:"the person it is about, as the gateway was told; upper and lower case are the same"`
		Agent   string `json:"agent,omitempty" maxLength:"256" doc:"all payloads of this agent"`
		Run     string `json:"run,omitempty" maxLength:"256" doc:"all payloads of this run"`
		Reason  string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason. It stays in the log: do not name the person"`
	}
}

type holdsRequest struct {
	Released bool `query:"released" doc:"also those that were released"`
}

type holdRequest struct {
	Body struct {
		Agent  string    `json:"agent,omitempty" maxLength:"256"`
		Run    string    `json:"run,omitempty" maxLength:"256"`
		From   time.Time `json:"from,omitzero" required:"false" doc:"included"`
		To     time.Time `json:"to,omitzero" required:"false" doc:"not included; absent: without end"`
		Reason string    `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

type releaseRequest struct {
	ID string `path:"id" maxLength:"64"`
}

type retentionRequest struct {
	Body struct {
		Days   int    `json:"days" minimum:"1" maximum:"36500"`
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason. Required below the floor"`
	}
}

func why(c rest.Caller, said string) string {
	if said != "" {
		return said
	}
	return c.Reason
}

func (s *Service) serveErase(ctx context.Context, c rest.Caller, r *eraseRequest) (*Erasure, error) {
	done, err := s.log.Erase(ctx, audit.Person(c.ID, c.Name), why(c, r.Body.Reason), audit.Erasure{Subject: r.Body.Subject, Agent: r.Body.Agent, Run: r.Body.Run})
	if err != nil {
		return nil, err
	}
	return &Erasure{done.Event, done.Keys, done.Payloads}, nil
}

func (s *Service) serveHolds(ctx context.Context, _ rest.Caller, r *holdsRequest) (*HoldListing, error) {
	holds, err := s.log.Holds(ctx, r.Released)
	if err != nil {
		return nil, err
	}
	out := HoldListing{Holds: []Hold{}}
	for _, h := range holds {
		out.Holds = append(out.Holds, holdOf(h))
	}
	return &out, nil
}

func holdOf(h audit.Hold) Hold {
	return Hold{h.ID, h.Agent, h.Run, h.From, h.To, h.Placed, h.By, h.Reason, h.Released, h.ReleasedBy, h.ReleaseReason}
}

func (s *Service) serveHold(ctx context.Context, c rest.Caller, r *holdRequest) (*Hold, error) {
	h, err := s.log.Hold(ctx, audit.Person(c.ID, c.Name), why(c, r.Body.Reason), audit.HoldSpec{Agent: r.Body.Agent, Run: r.Body.Run, From: r.Body.From, To: r.Body.To})
	if err != nil {
		return nil, err
	}
	out := holdOf(h)
	return &out, nil
}

func (s *Service) serveRelease(ctx context.Context, c rest.Caller, r *releaseRequest) (*rest.None, error) {
	return nil, s.log.Release(ctx, audit.Person(c.ID, c.Name), c.Reason, r.ID)
}

func (s *Service) serveRetention(ctx context.Context, _ rest.Caller, _ *struct{}) (*Retention, error) {
	r, err := s.log.Retention(ctx)
	if err != nil {
		return nil, err
	}
	return &Retention{Days: r.Days, Floor: audit.RetentionFloor}, nil
}

func (s *Service) serveSetRetention(ctx context.Context, c rest.Caller, r *retentionRequest) (*Retention, error) {
	if err := s.log.SetRetention(ctx, audit.Person(c.ID, c.Name), why(c, r.Body.Reason), audit.Retention{Days: r.Body.Days}); err != nil {
		return nil, err
	}
	return &Retention{Days: r.Body.Days, Floor: audit.RetentionFloor}, nil
}
