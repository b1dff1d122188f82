package tokens

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("tokens: read a row: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

// one returns the only element, or ErrNotFound naming what was looked for.
func one[T any](found []T, err error, what, name string) (T, error) {
	var zero T
	switch {
	case err != nil:
		return zero, err
	case len(found) == 0 || name == "":
		return zero, ErrNotFound.Say("there is no %s %q", what, cut(name, 200))
	}
	return found[0], nil
}

// view is what checking and issuing need, immutable once published.
type view struct {
	signing    []SigningKey           // the oldest first
	clientKeys map[string][]ClientKey // by agent
	trust      map[string][]Rule      // by issuer
	dead       map[string]bool        // identifiers of what was revoked
}

// reload builds a new view from the store and publishes it.
func (s *Service) reload(ctx context.Context) error {
	next := &view{clientKeys: map[string][]ClientKey{}, trust: map[string][]Rule{}, dead: map[string]bool{}}
	var err error
	if next.signing, err = readSigningKeys(ctx, s.db); err != nil {
		return err
	}
	for i := range next.signing {
		if err := next.signing[i].open(s.o.Derive); err != nil {
			return err
		}
	}
	keys, err := readClientKeys(ctx, s.db, "")
	if err != nil {
		return err
	}
	for _, k := range keys {
		next.clientKeys[k.Agent] = append(next.clientKeys[k.Agent], k)
	}
	rules, err := readRules(ctx, s.db, "")
	if err != nil {
		return err
	}
	for _, r := range rules {
		next.trust[r.Issuer] = append(next.trust[r.Issuer], r)
	}
	dead, err := collect(ctx, s.db, func(rows *sql.Rows) (id string, err error) { return id, rows.Scan(&id) }, `SELECT id FROM token_revocations`)
	if err != nil {
		return err
	}
	for _, id := range dead {
		next.dead[id] = true
	}
	s.view.Store(next)
	return nil
}

func readSigningKeys(ctx context.Context, q querier) ([]SigningKey, error) {
	return collect(ctx, q, func(rows *sql.Rows) (k SigningKey, err error) {
		var created, starts, gone int64
		err = rows.Scan(&k.Generation, &k.ID, &created, &starts, &gone)
		k.Created, k.Starts, k.Gone = storage.Time(created), storage.Time(starts), storage.Time(gone)
		return k, err
	}, `SELECT generation, kid, created, starts, gone FROM token_keys ORDER BY generation`)
}

// readClientKeys returns the keys of an agent, or all if agent is empty.
func readClientKeys(ctx context.Context, q querier, agent string) ([]ClientKey, error) {
	return collect(ctx, q, func(rows *sql.Rows) (k ClientKey, err error) {
		var jwk string
		var created, expires, revoked, used int64
		if err = rows.Scan(&k.ID, &k.Agent, &k.Thumbprint, &jwk, &k.JWKSURL, &k.Label, &created, &expires, &revoked, &used); err != nil {
			return k, err
		}
		k.Created, k.Expires, k.Revoked, k.LastUsed = storage.Time(created), storage.Time(expires), storage.Time(revoked), storage.Time(used)
		if jwk != "" {
			if k.jwk, _, err = publicKey([]byte(jwk)); err != nil {
				return k, fmt.Errorf("client key %s: %w", k.ID, err)
			}
		}
		return k, nil
	}, `SELECT id, agent, thumbprint, jwk, jwks_url, label, created, expires, revoked, last_used FROM client_keys WHERE ($1 = '' OR agent = $1) ORDER BY agent, id`, agent)
}

// readRules returns the rule called name, or all if name is empty.
func readRules(ctx context.Context, q querier, name string) ([]Rule, error) {
	return collect(ctx, q, func(rows *sql.Rows) (r Rule, err error) {
		var claims string
		var life, created, used int64
		if err = rows.Scan(&r.ID, &r.Name, &r.Agent, &r.Issuer, &r.Audience, &r.Subject, &r.Wildcard, &claims, &r.JWKS, &r.JWKSURL, &r.CA, &r.Private, &life, &created, &r.User, &used, &r.revision); err != nil {
			return r, err
		}
		r.RunLife, r.Created, r.LastUsed = time.Duration(life)*time.Second, storage.Time(created), storage.Time(used)
		return r, json.Unmarshal([]byte(claims), &r.Claims)
	}, `SELECT id, name, agent, issuer, audience, subject, wildcard, claims, jwks, jwks_url, ca, allow_private, run_life, created, user_name, last_used, revision FROM trust_rules
		WHERE ($1 = '' OR name = $1) ORDER BY name`, name)
}

// endUserTokens makes what was had by tokens of users die with them.
func (s *Service) endUserTokens(ctx context.Context, tx *audit.Tx, ids []string) error {
	for _, id := range ids {
		if err := s.kill(ctx, tx, id); err != nil {
			return err
		}
	}
	return storage.Bump(ctx, tx.Tx, Version)
}

// BeforeDelete lets an agent go with its keys, rules, clients and sessions, and
// a user with the rules that know them.
func (s *Service) BeforeDelete(ctx context.Context, tx *audit.Tx, _ audit.Actor, _, object string) error {
	if user, ok := strings.CutPrefix(object, "user/"); ok { // another user may be given the name
		if _, err := tx.Exec(ctx, `DELETE FROM trust_rules WHERE user_name = $1`, user); err != nil {
			return err
		}
		return storage.Bump(ctx, tx.Tx, Version)
	}
	agent, ok := strings.CutPrefix(object, "agent/")
	if !ok {
		return nil
	}
	for _, q := range []string{
		`DELETE FROM client_keys WHERE agent = $1`, `DELETE FROM trust_rules WHERE agent = $1`, `DELETE FROM oauth_clients WHERE agent = $1`,
		`DELETE FROM token_sessions WHERE agent = $1`, `DELETE FROM enrolments WHERE agent = $1`,
	} {
		if _, err := tx.Exec(ctx, q, agent); err != nil {
			return err
		}
	}
	return storage.Bump(ctx, tx.Tx, Version)
}
