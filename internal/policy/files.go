package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// File is a saved file of Cedar policies.
type File struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Version int64     `json:"version"`
	Text    string    `json:"text"`
	SavedBy string    `json:"saved_by"`
	Reason  string    `json:"reason,omitempty"`
	Saved   time.Time `json:"saved"`
}

// Version is one state a file had.
type Version struct {
	Version int64     `json:"version"`
	Text    string    `json:"text"`
	Deleted bool      `json:"deleted,omitempty"`
	SavedBy string    `json:"saved_by"`
	Reason  string    `json:"reason,omitempty"`
	Saved   time.Time `json:"saved"`
}

// File returns a saved file.
func (s *Service) File(ctx context.Context, name string) (File, error) {
	found, err := readFiles(ctx, s.db, ` WHERE p.name = $1`, name)
	if err != nil {
		return File{}, err
	}
	if len(found) == 0 {
		return File{}, ErrNotFound.Say("there is no policy file %q", name)
	}
	return found[0], nil
}

// Files returns every saved file, by name.
func (s *Service) Files(ctx context.Context) ([]File, error) { return readFiles(ctx, s.db, "") }

// History returns a file's versions, the newest first, also of a deleted file.
func (s *Service) History(ctx context.Context, name string) ([]Version, error) {
	found, err := readHistory(ctx, s.db, name)
	if err == nil && len(found) == 0 {
		err = ErrNotFound.Say("there was never a policy file %q", name)
	}
	return found, err
}

// PutPolicies creates or replaces a policy file. It refuses any problem that
// Check finds. It returns whether anything changed.
func (s *Service) PutPolicies(ctx context.Context, by audit.Actor, reason, name, text string) (changed bool, err error) {
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutPoliciesTx(ctx, tx, by, reason, name, text)
		return err
	})
	return changed, err
}

// PutPoliciesTx is PutPolicies inside a change. The text is checked against
// the tools that are registered now, not those that tx registers.
func (s *Service) PutPoliciesTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name, text string) (bool, error) {
	if !fileName.MatchString(name) {
		return false, ErrName
	}
	if err := checkReason(reason); err != nil {
		return false, err
	}
	old, err := readFiles(ctx, tx, ` WHERE p.name = $1`, name)
	if err != nil {
		return false, err
	}
	if len(old) == 1 && old[0].Text == text {
		return false, nil
	}
	problems, err := s.checkInTx(ctx, tx, name, text)
	if err != nil {
		return false, err
	}
	if len(problems) > 0 {
		return false, refuse(problems)
	}
	return true, s.saveFile(ctx, tx, by, reason, name, text, len(old) == 1)
}

// checkInTx checks text, and its ids against those of files that the
// transaction has written and this replica's view does not show yet.
func (s *Service) checkInTx(ctx context.Context, tx *audit.Tx, name, text string) ([]Problem, error) {
	e := s.engine.Load()
	if e == nil {
		return nil, ErrNotReady
	}
	files, err := readFiles(ctx, tx, ` WHERE p.name <> $1`, name)
	if err != nil {
		return nil, err
	}
	bare := &engine{ts: e.ts}
	for _, f := range files {
		rules, _ := parseFile(f.Name, f.Text)
		bare.rules = append(bare.rules, rules...)
	}
	return bare.check(name, text), nil
}

// refuse makes the error that shows problems.
func refuse(problems []Problem) error {
	const most = 10
	var lines []string
	for i, p := range problems {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more", len(problems)-most))
			break
		}
		lines = append(lines, p.String())
	}
	return ErrProblems.Say("%s", strings.Join(lines, "\n"))
}

// DeletePolicy deletes a policy file; its history stays.
func (s *Service) DeletePolicy(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.DeletePolicyTx(ctx, tx, by, reason, name) })
}

// DeletePolicyTx is DeletePolicy inside a change.
func (s *Service) DeletePolicyTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	old, err := readFiles(ctx, tx, ` WHERE p.name = $1`, name)
	if err != nil {
		return err
	}
	if len(old) == 0 {
		return ErrNotFound.Say("there is no policy file %q", name)
	}
	if err := deleteFile(ctx, tx, name, old[0].Version); err != nil {
		return err
	}
	if err := writeVersion(ctx, tx, name, Version{Version: old[0].Version + 1, Deleted: true, SavedBy: by.Name, Reason: reason, Saved: micros(s.o.Now())}); err != nil {
		return err
	}
	tx.Record(audit.Event{Type: "policy.deleted", Actor: by, Object: "policy/" + name, Reason: reason, Detail: detail(map[string]any{
		"version": old[0].Version, "sha256": digest(old[0].Text),
	})})
	return storage.Bump(ctx, tx.Tx, version)
}

// Grant returns a grant.
func (s *Service) Grant(ctx context.Context, name string) (Grant, error) {
	found, err := readGrants(ctx, s.db, ` WHERE name = $1`, name)
	if err != nil {
		return Grant{}, err
	}
	if len(found) == 0 {
		return Grant{}, ErrNoGrant.Say("there is no grant %q", name)
	}
	return found[0].Grant, nil
}

// Grants returns every grant, expired ones too, by name; of one agent if named.
func (s *Service) Grants(ctx context.Context, agent string) ([]Grant, error) {
	rows, err := readGrants(ctx, s.db, ` WHERE $1 = '' OR agent = $1`, agent)
	all := make([]Grant, len(rows))
	for i, r := range rows {
		all[i] = r.Grant
	}
	return all, err
}

// GrantTx returns a grant inside a change: ErrNoGrant if there is none.
func (s *Service) GrantTx(ctx context.Context, tx *audit.Tx, name string) (Grant, error) {
	found, err := readGrants(ctx, tx, ` WHERE name = $1`, name)
	if err != nil || len(found) == 0 {
		return Grant{}, errors.Join(err, ErrNoGrant.Say("there is no grant %q", name))
	}
	return found[0].Grant, nil
}

// PutGrant gives or changes a grant. ID, GivenBy, Reason and Created are set
// here. It returns whether anything changed.
func (s *Service) PutGrant(ctx context.Context, by audit.Actor, reason string, g Grant) (changed bool, err error) {
	if s.o.Agents != nil {
		if _, ok := s.o.Agents(g.Agent); !ok {
			return false, ErrNoAgent.Say("there is no agent %q to give a grant to", g.Agent)
		}
	}
	err = s.change(ctx, func(tx *audit.Tx) error {
		changed, err = s.PutGrantTx(ctx, tx, by, reason, g)
		return err
	})
	return changed, err
}

// GrantsTx is Grants of an agent inside a change.
func (s *Service) GrantsTx(ctx context.Context, tx *audit.Tx, agent string) ([]Grant, error) {
	rows, err := readGrants(ctx, tx, ` WHERE agent = $1`, agent)
	all := make([]Grant, len(rows))
	for i, r := range rows {
		all[i] = r.Grant
	}
	return all, err
}

// PutGrantTx is PutGrant inside a change. The grant is checked against the
// tools that are registered now; that its agent exists is not checked. What gives
// more than the grant of its name did must pass the guard.
func (s *Service) PutGrantTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, g Grant) (bool, error) {
	return s.putGrant(ctx, tx, by, reason, g, s.guard)
}

// ResizeGrantTx is PutGrantTx for what right-sizing makes of a grant and for giving
// that grant back: both give no more than was there, so no guard is asked.
func (s *Service) ResizeGrantTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, g Grant) error {
	_, err := s.putGrant(ctx, tx, by, reason, g, nil)
	return err
}

type giving func(ctx context.Context, tx *audit.Tx, g Grant) error

// ask lets pass what gives no more than was there.
func (fn giving) ask(ctx context.Context, tx *audit.Tx, g Grant, old []grantRow) error {
	if fn == nil || len(old) == 1 && g.Within(old[0].Grant) {
		return nil
	}
	return fn(ctx, tx, g)
}

func (s *Service) putGrant(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, g Grant, asked giving) (bool, error) {
	g.Expires = micros(g.Expires)
	if err := s.checkGrant(g, reason); err != nil {
		return false, err
	}
	old, err := readGrants(ctx, tx, ` WHERE name = $1`, g.Name)
	if err != nil {
		return false, err
	}
	if len(old) == 1 && old[0].same(g) {
		return false, nil
	}
	if !g.Expires.IsZero() && !g.Expires.After(s.o.Now()) {
		return false, ErrExpired
	}
	if err := asked.ask(ctx, tx, g, old); err != nil {
		return false, err
	}
	return true, s.saveGrant(ctx, tx, by, reason, g, old)
}

// CheckGrant returns what giving g would be refused for, as far as its own
// fields and condition go.
func (s *Service) CheckGrant(g Grant) error { return s.checkGrant(g, "") }

// checkGrant validates the grant as the policy it compiles to.
func (s *Service) checkGrant(g Grant, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	r, problems := g.compile()
	if len(problems) > 0 {
		return refuse(problems)
	}
	e := s.engine.Load()
	if e == nil {
		return ErrNotReady
	}
	if v := newChecker(e.ts, nil).check(r); v != nil {
		return refuse(v.problems)
	}
	return nil
}

func (g Grant) same(o Grant) bool {
	return g.Agent == o.Agent && g.Connection == o.Connection && slices.Equal(g.Tools, o.Tools) && g.When == o.When && g.Expires.Equal(o.Expires)
}

func (g Grant) event(kind audit.Type, by audit.Actor, reason string) audit.Event {
	d := map[string]any{"grant": g.ID, "connection": g.Connection, "tools": g.Tools}
	if g.When != "" {
		d["when"] = g.When
	}
	if !g.Expires.IsZero() {
		d["expires"] = g.Expires
	}
	return audit.Event{Type: kind, Actor: by, Object: "grant/" + g.Name, Agent: g.Agent, Connection: g.Connection, Reason: reason, Detail: detail(d)}
}

// RevokeGrant takes a grant away.
func (s *Service) RevokeGrant(ctx context.Context, by audit.Actor, reason, name string) error {
	return s.change(ctx, func(tx *audit.Tx) error { return s.RevokeGrantTx(ctx, tx, by, reason, name) })
}

// RevokeGrantTx is RevokeGrant inside a change.
func (s *Service) RevokeGrantTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, name string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	found, err := readGrants(ctx, tx, ` WHERE name = $1`, name)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return ErrNoGrant.Say("there is no grant %q", name)
	}
	return s.revoke(ctx, tx, by, reason, found)
}

func (s *Service) revoke(ctx context.Context, tx *audit.Tx, by audit.Actor, reason string, rows []grantRow) error {
	for _, g := range rows {
		if err := deleteGrant(ctx, tx, g.Name, g.revision); err != nil {
			return err
		}
		if err := keepGrant(ctx, tx, g.Grant, true, by.Name, reason, s.o.Now()); err != nil {
			return err
		}
		tx.Record(g.event("grant.revoked", by, reason))
	}
	if len(rows) == 0 {
		return nil
	}
	return storage.Bump(ctx, tx.Tx, version)
}

// BeforeDelete revokes, in the same change, the grants that hang on an agent
// ("agent/NAME") or connection ("connection/NAME") that is being deleted, so
// that a later namesake does not inherit them.
func (s *Service) BeforeDelete(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, object string) error {
	what, name, _ := strings.Cut(object, "/")
	if what != "agent" && what != "connection" {
		return nil
	}
	rows, err := readGrants(ctx, tx, ` WHERE ($1 = 'agent' AND agent = $2) OR ($1 = 'connection' AND connection = $2)`, what, name)
	if err != nil {
		return err
	}
	return s.revoke(ctx, tx, by, reason, rows)
}

// RevokeAllTx revokes every grant of an agent, inside a change, and returns how
// many. Whoever commits it polls the watcher.
func (s *Service) RevokeAllTx(ctx context.Context, tx *audit.Tx, by audit.Actor, reason, agent string) (int, error) {
	rows, err := readGrants(ctx, tx, ` WHERE agent = $1`, agent)
	if err != nil {
		return 0, err
	}
	return len(rows), s.revoke(ctx, tx, by, reason, rows)
}

// change commits fn and then looks for changes, so that whoever made this one
// sees it.
func (s *Service) change(ctx context.Context, fn func(tx *audit.Tx) error) error {
	if err := s.log.Change(ctx, fn); err != nil {
		return err
	}
	if err := s.watch.Poll(ctx); err != nil {
		s.o.Logger.Warn("a change was saved but is not in force here yet", "error", err)
	}
	return nil
}

func checkReason(reason string) error {
	if utf8.RuneCountInString(reason) > 1000 || !utf8.ValidString(reason) || hasControl(strings.NewReplacer("\n", "", "\t", "").Replace(reason)) {
		return ErrReason
	}
	return nil
}

func cutGrant(file string) (string, bool) { return strings.CutPrefix(file, "grant:") }

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func detail(m map[string]any) jsontext.Value {
	b, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return nil // names and tools that are not UTF-8 were refused before
	}
	return b
}
