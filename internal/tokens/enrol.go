package tokens

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"math/big"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/storage"
)

// How enrolment goes.
const (
	EnrolLife    = 10 * time.Minute
	PollInterval = 5 * time.Second
	EnrolledLife = 30 * 24 * time.Hour // of the key that a person approved
	maxOpen      = 200                 // enrolments that wait
	maxOpenFrom  = 10                  // of one network address
	keepEnrolled = 24 * time.Hour
	userAlphabet = "BCDFGHJKLMNPQRSTVWXZ" // RFC 8628 section 6.1: no vowels, nothing that looks like another
	userChars    = 8
)

// The states of an enrolment.
const (
	Pending  = "pending"
	Approved = "approved" // the machine has not come for its token yet
	Enrolled = "enrolled"
	Refused  = "refused"
	Lapsed   = "expired"
)

// Enrolment is a machine that asks to be let in as an agent. It holds a private
// key of its own; a person who sees its code approves the public half.
type Enrolment struct {
	ID         string    `json:"id"`
	Agent      string    `json:"agent"`
	Host       string    `json:"host" doc:"what the machine calls itself; nobody checked it"`
	Remote     string    `json:"remote" doc:"the network address it asks from"`
	Thumbprint string    `json:"thumbprint" doc:"of its key"`
	State      string    `json:"state" enum:"pending,approved,enrolled,refused,expired"`
	DecidedBy  string    `json:"decided_by,omitempty"`
	ClientKey  string    `json:"client_key,omitempty"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	jwk        string
	polled     time.Time
}

// Codes is what a machine gets when it asks: one code for itself, one for a
// person to read.
type Codes struct {
	Device, User string
	Expires      time.Time
}

// enrolHash is the stored form of a code. User codes are short, so a copy of
// the database alone must not tell them.
func (s *Service) enrolHash(code string) string {
	m := hmac.New(sha256.New, s.o.Derive("tokens/enrol/v1"))
	m.Write([]byte(code))
	return hexOf(m.Sum(nil))
}

func userCode() string {
	var sb strings.Builder
	for i := range userChars {
		if i == userChars/2 {
			sb.WriteByte('-')
		}
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(userAlphabet))))
		if err != nil {
			panic(err) // crypto/rand does not fail
		}
		sb.WriteByte(userAlphabet[n.Int64()])
	}
	return sb.String()
}

// Enrol opens an enrolment for a machine that proves to hold the private half
// of jwk, by an assertion like a client's (RFC 7523) that the key made.
func (s *Service) Enrol(ctx context.Context, agent string, jwk []byte, p ClientProof, host, remote string) (Codes, error) {
	if len(agent) > 63 || !ruleName.MatchString(agent) {
		return Codes{}, ErrRequest.Say("client_id: the name of the agent")
	}
	if len(host) > 200 || !plain(host) {
		return Codes{}, ErrRequest.Say("host: at most 200 characters on one line")
	}
	key, thumb, err := publicKey(jwk)
	if err != nil {
		return Codes{}, ErrRequest.Say("%s", err.Error())
	}
	if err := s.holds(p, agent, ClientKey{jwk: key}); err != nil {
		return Codes{}, err
	}
	raw, err := key.MarshalJSON()
	if err != nil {
		return Codes{}, err
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	codes := Codes{Device: "csd_" + rand.Text(), User: userCode(), Expires: now.Add(EnrolLife)}
	err = s.change(ctx, func(tx *audit.Tx) error {
		if err := s.roomForEnrolment(ctx, tx, remote, now); err != nil {
			return err
		}
		e := Enrolment{ID: id.At(enrolID, now), Agent: agent, Host: host, Remote: remote, Thumbprint: thumb}
		if _, err := tx.Exec(ctx, `INSERT INTO enrolments (id, user_code, device_code, agent, thumbprint, jwk, host, remote, created, expires, state, decided_by, client_key, polled)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, '', '', 0)`, e.ID, s.enrolHash(codes.User), s.enrolHash(codes.Device), e.Agent, e.Thumbprint, string(raw), e.Host, e.Remote,
			storage.Micros(now), storage.Micros(codes.Expires), Pending); err != nil {
			return err
		}
		ev := event("enrolment.requested", audit.Actor{Kind: audit.KindAgent}, "", "enrolment/"+e.ID, map[string]any{"claims_to_be": agent, "host": host, "thumbprint": thumb, "expires": codes.Expires})
		ev.Remote = remote
		tx.Record(ev)
		return nil
	})
	return codes, err
}

// roomForEnrolment bounds what people nobody knows can write.
func (s *Service) roomForEnrolment(ctx context.Context, tx *audit.Tx, remote string, now time.Time) error {
	if _, err := tx.Exec(ctx, `DELETE FROM enrolments WHERE expires < $1`, storage.Micros(now.Add(-keepEnrolled))); err != nil {
		return err
	}
	var all, here int
	if err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN remote = $1 THEN 1 ELSE 0 END), 0) FROM enrolments WHERE state = $2 AND expires > $3`, remote, Pending, storage.Micros(now)).Scan(&all, &here); err != nil {
		return err
	}
	if all >= maxOpen || here >= maxOpenFrom {
		return ErrTooMany.Say("too many enrolments wait for an answer; try again in %s", EnrolLife)
	}
	return nil
}

// holds checks that whoever asks holds a key: that it made the assertion, for
// us and for this agent. It does not use the assertion up; what is had with it
// is bound to the key.
func (s *Service) holds(p ClientProof, agent string, k ClientKey) error {
	j, err := parseJWT(p.Assertion)
	if err != nil {
		return ErrClient.With(err)
	}
	if j.issuer != agent || j.subject != agent || j.verify(k.jwk) != nil {
		return ErrClient.Say("the assertion was not made by this key for this agent")
	}
	return s.checkAssertion(j, s.now())
}

// Enrolments lists the enrolments of the last day.
func (s *Service) Enrolments(ctx context.Context) ([]Enrolment, error) {
	all, err := readEnrolments(ctx, s.db, "", "")
	for i, e := range all {
		if e.State == Pending && s.now().After(e.Expires) {
			all[i].State = Lapsed
		}
	}
	return all, err
}

// Decide answers an enrolment that a person read the code of. agent is the one
// the person means; an enrolment for another is not answered.
func (s *Service) Decide(ctx context.Context, c rest.Caller, reason, code, agent string, approve bool) (e Enrolment, err error) {
	if err := checkReason(reason, false); err != nil {
		return e, err
	}
	code = strings.ToUpper(strings.TrimSpace(code))
	if len(code) == userChars {
		code = code[:userChars/2] + "-" + code[userChars/2:]
	}
	err = s.announced(ctx, func(tx *audit.Tx) error {
		found, err := readEnrolments(ctx, tx, s.enrolHash(code), "")
		if err != nil {
			return err
		}
		if len(found) == 0 || found[0].State != Pending || s.now().After(found[0].Expires) {
			return ErrCode
		}
		e = found[0]
		if agent != "" && agent != e.Agent {
			return ErrRequest.Say("the machine %q asks to be the agent %q, not %q", e.Host, e.Agent, cut(agent, 63))
		}
		a, err := s.agent(e.Agent)
		if err != nil {
			return err
		}
		if err := s.mayManage(c, a); err != nil {
			return err
		}
		return s.decideTx(ctx, tx, c, reason, a, &e, approve)
	})
	return e, err
}

func (s *Service) decideTx(ctx context.Context, tx *audit.Tx, c rest.Caller, reason string, a identity.Agent, e *Enrolment, approve bool) error {
	by := audit.Person(c.ID, c.Name)
	e.State, e.DecidedBy = Refused, c.Name
	kind := audit.Type("enrolment.refused")
	if approve {
		k, err := s.addClientKeyTx(ctx, tx, by, reason, a, ClientKeySpec{JWK: []byte(e.jwk), Label: e.Host, Life: EnrolledLife})
		if err != nil {
			return err
		}
		e.State, e.ClientKey, kind = Approved, k.ID, "enrolment.approved"
	}
	err := tx.ExecOne(ctx, `UPDATE enrolments SET state = $1, decided_by = $2, client_key = $3 WHERE id = $4 AND state = $5`, e.State, e.DecidedBy, e.ClientKey, e.ID, Pending)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrCode
	}
	if err != nil {
		return err
	}
	ev := about(event(kind, by, reason, "enrolment/"+e.ID, map[string]any{"host": e.Host, "thumbprint": e.Thumbprint, "client_key": e.ClientKey, "asked_from": e.Remote}), a)
	ev.Credential, ev.Remote = e.ClientKey, c.Remote
	tx.Record(ev)
	return nil
}

// Poll answers a machine that waits: with a token when a person has approved
// it, once; else with what RFC 8628 section 3.5 has for it. The machine proves
// every time that it holds the key.
func (s *Service) Poll(ctx context.Context, device string, p ClientProof, ask Ask) (out Issued, err error) {
	found, err := readEnrolments(ctx, s.db, "", s.enrolHash(device))
	if err != nil {
		return Issued{}, err
	}
	if len(found) == 0 {
		return Issued{}, ErrGrant.Say("the device_code is unknown")
	}
	e := found[0]
	key, _, err := publicKey([]byte(e.jwk))
	if err != nil {
		return Issued{}, err
	}
	if err := s.holds(p, e.Agent, ClientKey{jwk: key}); err != nil {
		return Issued{}, err
	}
	now := s.now()
	switch {
	case e.State == Refused:
		return Issued{}, ErrDenied
	case e.State == Enrolled:
		return Issued{}, ErrGrant.Say("the code was used already; the key is enrolled")
	case now.After(e.Expires):
		return Issued{}, ErrCodeExpired
	case e.State == Pending:
		return Issued{}, s.polled(ctx, e, now)
	}
	return s.enrolled(ctx, e, ask)
}

// polled notes when a machine asked; that is no change that a person made, so
// it is no event.
func (s *Service) polled(ctx context.Context, e Enrolment, now time.Time) error {
	err := s.db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE enrolments SET polled = $1 WHERE id = $2`, storage.Micros(now), e.ID)
		return err
	})
	switch {
	case err != nil:
		return err
	case now.Sub(e.polled) < PollInterval-time.Second:
		return ErrSlowDown
	}
	return ErrPending
}

func (s *Service) enrolled(ctx context.Context, e Enrolment, ask Ask) (out Issued, err error) {
	a, err := s.agent(e.Agent)
	if err != nil {
		return Issued{}, ErrGrant.With(err)
	}
	t := terms{ask: ask, grant: "device_code", chain: only(a), agent: a, client: a.Name, lineage: []string{e.ClientKey}, origin: "client-key/" + e.ClientKey, runMost: RunMost,
		detail: map[string]any{"enrolment": e.ID, "client_key": e.ClientKey}}
	if err := s.fresh(&t); err != nil {
		return Issued{}, err
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		err := tx.ExecOne(ctx, `UPDATE enrolments SET state = $1 WHERE id = $2 AND state = $3`, Enrolled, e.ID, Approved)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrGrant.Say("the code was used already")
		}
		if err != nil {
			return err
		}
		out, err = s.issueTx(ctx, tx, t)
		return err
	})
	return out, err
}

func readEnrolments(ctx context.Context, q querier, user, device string) ([]Enrolment, error) {
	return collect(ctx, q, func(rows *sql.Rows) (e Enrolment, err error) {
		var created, expires, polled int64
		err = rows.Scan(&e.ID, &e.Agent, &e.Thumbprint, &e.jwk, &e.Host, &e.Remote, &created, &expires, &e.State, &e.DecidedBy, &e.ClientKey, &polled)
		e.Created, e.Expires, e.polled = storage.Time(created), storage.Time(expires), storage.Time(polled)
		return e, err
	}, `SELECT id, agent, thumbprint, jwk, host, remote, created, expires, state, decided_by, client_key, polled FROM enrolments
		WHERE ($1 = '' OR user_code = $1) AND ($2 = '' OR device_code = $2) ORDER BY id`, user, device)
}
