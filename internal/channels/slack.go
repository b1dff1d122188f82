package channels

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/channels/send"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/storage"
)

const (
	maxCallback = 256 << 10        // bytes
	linkFor     = 10 * time.Minute // how long a code links an account
	signingFor  = time.Minute      // how long a signing secret is kept open
)

// kept is a signing secret that was opened for a receipt a moment ago: what
// comes from outside must not make us write to the log each time.
type kept struct {
	value secrets.Value
	until time.Time
}

func (s *Service) forgetSigning() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, k := range s.signing {
		k.value.Wipe()
		delete(s.signing, name)
	}
}

// signed reports whether a request is Slack's, by the channel's signing secret.
func (s *Service) signed(ctx context.Context, c Channel, timestamp, signature string, body []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, open := s.signing[c.ID]
	if !open || !s.Now().Before(k.until) {
		k.value.Wipe()
		call := id.New(id.Call)
		r, err := s.Log.Intent(ctx, audit.Event{Actor: audit.System, Call: call, Connection: c.Connection(), Owner: c.Owner, Tool: "channel/verify", Object: "channel/" + c.Name})
		if err != nil {
			return false, err
		}
		v, err := s.Secrets.Inject(ctx, r, secrets.Use{Call: call, Secret: c.Signing, Connection: c.Connection(), Host: hostOf(c.URL)})
		end := audit.Outcome{Status: audit.Succeeded}
		if err != nil {
			end = audit.Outcome{Status: audit.Failed, Error: fault.Public(err).Message}
		}
		s.Log.Outcome(r, audit.Event{Actor: audit.System, Outcome: &end})
		if err != nil {
			return false, err
		}
		k = kept{v, s.Now().Add(signingFor)}
		s.signing[c.ID] = k
	}
	return send.SlackSigned(k.value, timestamp, signature, body, s.Now()), nil
}

// FromSlack takes what Slack sends: a button that was pressed, or a command.
// It returns what to answer at once, for commands. Whatever is not signed by
// Slack, is older than five minutes or was seen before is ErrSigned.
func (s *Service) FromSlack(ctx context.Context, channel, timestamp, signature, remote string, body []byte) (map[string]any, error) {
	c, ok := s.Channel(channel)
	if !ok || c.Kind != Slack || len(body) > maxCallback {
		return nil, ErrSigned
	}
	good, err := s.signed(ctx, c, timestamp, signature, body)
	if err != nil {
		return nil, err
	}
	if !good {
		s.Log.Later(audit.Event{Type: "channel.callback_refused", Actor: audit.System, Object: "channel/" + c.Name, Remote: remote})
		return nil, ErrSigned
	}
	if err := s.once(ctx, signature); err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, ErrCallback
	}
	if form.Get("command") != "" {
		return reply(s.command(ctx, c, form)), nil
	}
	return nil, s.pressed(ctx, c, form.Get("payload"))
}

// once refuses a signature that was seen before.
func (s *Service) once(ctx context.Context, signature string) error {
	err := s.DB.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO channel_seen (signature, at) VALUES ($1, $2)`, digest(signature), storage.Micros(s.Now()))
		return err
	})
	if storage.Duplicate(err) {
		return ErrSigned
	}
	return unavailable(err)
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(s)))
	return hex.EncodeToString(sum[:])
}

// interaction is what we read of a block_actions payload.
type interaction struct {
	Type string `json:"type"`
	User struct {
		ID   string `json:"id"`
		Team string `json:"team_id"`
	} `json:"user"`
	Channel struct {
		ID string `json:"id"`
	} `json:"channel"`
	ResponseURL string `json:"response_url"`
	Actions     []struct {
		ID    string `json:"action_id"`
		Value string `json:"value"`
	} `json:"actions"`
	State struct {
		Values map[string]map[string]struct {
			Value string `json:"value"`
		} `json:"values"`
	} `json:"state"`
}

// pressed is a button that somebody pressed.
func (s *Service) pressed(ctx context.Context, c Channel, payload string) error {
	var in interaction
	if json.Unmarshal([]byte(payload), &in) != nil || in.Type != "block_actions" || len(in.Actions) != 1 || in.Channel.ID != c.Room || in.User.ID == "" || in.User.Team == "" {
		return ErrCallback
	}
	press := in.Actions[0]
	if press.ID == "look" {
		return nil
	}
	who, linked, err := s.person(ctx, c, foreign(in.User.Team, in.User.ID))
	if err != nil {
		return err
	}
	said := "Your Slack account is linked to nobody. Run: countersign channel link " + c.Name
	if linked {
		reason := in.State.Values["reason"]["reason"].Value
		if said, err = s.decide(ctx, c, who, foreign(in.User.Team, in.User.ID), press.Value, approvals.Verdict(press.ID), reason); err != nil {
			return err
		}
	}
	return s.answer(ctx, c, press.Value, in.ResponseURL, said)
}

// decide decides as the person whose account it is. It returns what to tell
// them; an error is ours.
func (s *Service) decide(ctx context.Context, c Channel, who approvals.Person, account, approval string, v approvals.Verdict, reason string) (string, error) {
	_, told, err := refOf(ctx, s.DB, c.ID, approval)
	if err != nil {
		return "", err
	}
	if !told {
		return "This channel was not told of that request, so it cannot be decided here.", nil
	}
	by := approvals.By{Person: who, Channel: "slack", Credential: "slack/" + account}
	r, err := s.Approvals.Decide(ctx, by, approval, v, reason)
	if err != nil {
		if k := fault.KindOf(err); k == fault.Internal || k == fault.Unavailable {
			return "", err
		}
		return "Not done: " + fault.Public(err).Message, nil
	}
	return "Recorded: the request is " + string(r.State) + ".", nil
}

// answer has an interaction answered, as a message like any other. The URL must
// be Slack's own.
func (s *Service) answer(ctx context.Context, c Channel, approval, to, said string) error {
	u, err := url.Parse(to)
	ours, _ := url.Parse(c.URL)
	if err != nil || u.User != nil || u.Host != ours.Host && (u.Scheme != "https" || u.Host != "hooks.slack.com") {
		return nil // nowhere to answer; what was done is done
	}
	now := s.Now()
	return s.DB.Tx(ctx, func(tx *storage.Tx) error {
		return putDelivery(ctx, tx.Exec, delivery{ID: id.At(deliveryID, now), Channel: c.ID, Approval: approval, What: whatReply, News: news{Said: said, Reply: to}, Created: now})
	})
}

func foreign(team, user string) string { return team + "/" + user }

// person returns whose account it is.
func (s *Service) person(ctx context.Context, c Channel, account string) (approvals.Person, bool, error) {
	var person string
	err := s.DB.QueryRow(ctx, `SELECT person FROM channel_people WHERE channel = $1 AND foreign_id = $2`, c.ID, account).Scan(&person)
	if storage.NoRows(err) {
		return approvals.Person{}, false, nil
	}
	if err != nil {
		return approvals.Person{}, false, unavailable(err)
	}
	for _, u := range s.Identity.Users() {
		if u.ID == person && !u.Disabled {
			return approvals.Person{ID: u.ID, Name: u.Name}, true, nil
		}
	}
	return approvals.Person{}, false, nil
}

// LinkCode returns a code with which a signed-in person links their account in a
// channel's chat to themselves: they say it there. It is good once, for ten minutes.
func (s *Service) LinkCode(ctx context.Context, by approvals.Person, channel string) (code string, until time.Time, err error) {
	c, ok := s.Channel(channel)
	if !ok {
		return "", until, ErrNotFound
	}
	if c.Kind != Slack {
		return "", until, ErrNoLink
	}
	code, until = strings.ToLower(newCode()), s.Now().Add(linkFor)
	err = s.Log.Change(ctx, func(tx *audit.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO channel_links (code, channel, person, until) VALUES ($1, $2, $3, $4)`, digest(code), c.ID, by.ID, storage.Micros(until)); err != nil {
			return err
		}
		tx.Record(event("channel.link_requested", audit.Person(by.ID, by.Name), "", c, nil))
		return nil
	})
	return code, until, err
}

// command answers "/countersign link CODE".
func (s *Service) command(ctx context.Context, c Channel, form url.Values) string {
	verb, code, _ := strings.Cut(strings.TrimSpace(form.Get("text")), " ")
	account := foreign(form.Get("team_id"), form.Get("user_id"))
	if verb != "link" || form.Get("team_id") == "" || form.Get("user_id") == "" {
		return "Say: link CODE, with a code from: countersign channel link " + c.Name
	}
	name := ""
	err := s.Log.Change(ctx, func(tx *audit.Tx) error {
		var person string
		err := tx.QueryRow(ctx, `DELETE FROM channel_links WHERE code = $1 AND channel = $2 AND until > $3 RETURNING person`,
			digest(strings.TrimSpace(code)), c.ID, storage.Micros(s.Now())).Scan(&person)
		if err != nil {
			return err
		}
		for _, u := range s.Identity.Users() {
			if u.ID == person && !u.Disabled {
				name = u.Name
			}
		}
		if name == "" {
			return ErrUnlinked
		}
		if _, err := tx.Exec(ctx, `INSERT INTO channel_people (channel, foreign_id, person, linked) VALUES ($1, $2, $3, $4)
			ON CONFLICT (channel, foreign_id) DO UPDATE SET person = excluded.person, linked = excluded.linked`, c.ID, account, person, storage.Micros(s.Now())); err != nil {
			return err
		}
		tx.Record(event("channel.account_added", audit.Person(person, name), "", c, map[string]string{"account": account}))
		return nil
	})
	switch {
	case err == nil:
		return "This account is " + name + " now. Whoever can write with it can decide in that name; countersign channel unlink " + c.Name + " ends it."
	case storage.NoRows(err), errors.Is(err, ErrUnlinked):
		return "That code is not good (any more). Get another: countersign channel link " + c.Name
	}
	s.Logger.Error("an account could not be linked", "channel", c.Name, "error", err)
	return "That did not work on our side; try again."
}

// Unlink ends all links of a person to accounts in a channel's chat.
func (s *Service) Unlink(ctx context.Context, by approvals.Person, channel string) error {
	c, ok := s.Channel(channel)
	if !ok {
		return ErrNotFound
	}
	return s.Log.Change(ctx, func(tx *audit.Tx) error {
		res, err := tx.Exec(ctx, `DELETE FROM channel_people WHERE channel = $1 AND person = $2`, c.ID, by.ID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(ErrUnlinked, err)
		}
		tx.Record(event("channel.account_removed", audit.Person(by.ID, by.Name), "", c, nil))
		return nil
	})
}
