package lifecycle

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// OfferLife is how long an offer waits to be accepted.
const OfferLife = 7 * 24 * time.Hour

// Offer says that an agent is to have another owner, once they accept.
type Offer struct {
	Agent   string    `json:"agent"`
	To      string    `json:"to"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// Give offers an agent to another owner, in place of any offer before. The
// present owner answers for it until it is accepted. Needs a reason.
func (s *Service) Give(ctx context.Context, by audit.Actor, reason, agent, to string) (o Offer, err error) {
	if err := checkReason(reason); err != nil {
		return o, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		a, err := s.o.Identity.AgentTx(ctx, tx, agent)
		if err != nil {
			return err
		}
		if !a.Retired.IsZero() {
			return identity.ErrRetired
		}
		u, err := s.o.Identity.UserTx(ctx, tx, to)
		if err != nil {
			return err
		}
		if !u.May(rest.Own) || u.Name == a.Owner {
			return ErrOffer
		}
		now := s.o.Now()
		o = Offer{Agent: agent, To: to, By: by.Name, Reason: reason, Created: now, Expires: now.Add(OfferLife)}
		if err := upsertOffer(ctx, tx, o); err != nil {
			return err
		}
		tx.Record(event("agent.offered", by, reason, a, map[string]any{"to": to, "expires": o.Expires}))
		return nil
	})
	return o, err
}

// Accept makes the person who asks the owner of an agent that was offered to
// them, or whose owner left and whose backup they are; an agent suspended for
// that is resumed. Needs a reason. Refusals: ErrNothing, rest.ErrRole.
func (s *Service) Accept(ctx context.Context, c rest.Caller, reason, agent string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	if err := c.Refuse(rest.Own); err != nil { // who owns must be able to stop it
		return err
	}
	by := audit.Person(c.ID, c.Name)
	return s.change(ctx, func(tx *audit.Tx) error {
		a, err := s.o.Identity.AgentTx(ctx, tx, agent)
		if err != nil {
			return err
		}
		how, err := s.entitled(ctx, tx, a, c.Name)
		if err != nil {
			return err
		}
		tx.Record(event("agent.accepted", by, reason, a, map[string]any{"as": how, "owner": [2]string{a.Owner, c.Name}}))
		_, err = s.o.Identity.SetOwnerTx(ctx, tx, by, reason, agent, c.Name, "")
		return err
	})
}

// entitled says as what a person may accept an agent.
func (s *Service) entitled(ctx context.Context, tx *audit.Tx, a identity.Agent, user string) (string, error) {
	offers, err := readOffers(ctx, tx, ` WHERE agent = $1`, a.Name)
	if err != nil {
		return "", err
	}
	if len(offers) > 0 && offers[0].To == user && s.o.Now().Before(offers[0].Expires) {
		return "offer", nil
	}
	left, err := readDepartures(ctx, tx, ` WHERE agent = $1`, a.Name)
	if err != nil {
		return "", err
	}
	if len(left) > 0 && a.Backup == user {
		return "backup", nil
	}
	return "", ErrNothing
}

// withdrawOffers drops offers whose time is over.
func (s *Service) withdrawOffers(ctx context.Context) error {
	due, err := readOffers(ctx, s.o.DB, ` WHERE expires <= $1 ORDER BY agent LIMIT 100`, storage.Micros(s.o.Now()))
	if err != nil || len(due) == 0 {
		return err
	}
	return s.change(ctx, func(tx *audit.Tx) error {
		for _, o := range due {
			a, err := s.o.Identity.AgentTx(ctx, tx, o.Agent)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `DELETE FROM agent_offers WHERE agent = $1 AND expires = $2`, o.Agent, storage.Micros(o.Expires)); err != nil {
				return err
			}
			tx.Record(event("agent.offer_expired", audit.System, "nobody accepted it", a, map[string]any{"to": o.To}))
		}
		return nil
	})
}
