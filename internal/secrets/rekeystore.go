package secrets

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

func rekeys(ctx context.Context, q querier, where string, args ...any) ([]Rekey, error) {
	rows, err := q.Query(ctx, `SELECT id, phase, probe, resealed, actor_id, actor, reason, error, started, updated, finished FROM secret_rekeys `+where, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []Rekey
	for rows.Next() {
		var k Rekey
		var started, updated, finished int64
		var by, name string
		if err := rows.Scan(&k.ID, &k.Phase, &k.probe, &k.Resealed, &by, &name, &k.Reason, &k.Error, &started, &updated, &finished); err != nil {
			return nil, err
		}
		k.By = audit.Person(by, name)
		k.Started, k.Updated, k.Finished = storage.Time(started), storage.Time(updated), storage.Time(finished)
		out = append(out, k)
	}
	return out, rows.Err()
}

func insertRekey(ctx context.Context, tx *audit.Tx, k Rekey) error {
	_, err := tx.Exec(ctx, `INSERT INTO secret_rekeys (id, phase, probe, resealed, actor_id, actor, reason, error, started, updated, finished)
		VALUES ($1, $2, $3, 0, $4, $5, $6, '', $7, $7, 0)`, k.ID, k.Phase, k.probe, k.By.ID, k.By.Name, k.Reason, storage.Micros(k.Started))
	return err
}

// redirectRekey stores another probe and forgets who held the key before.
func redirectRekey(ctx context.Context, tx *audit.Tx, k Rekey) error {
	if _, err := tx.Exec(ctx, `DELETE FROM secret_rekey_holders WHERE rekey = $1`, k.ID); err != nil {
		return err
	}
	return tx.ExecOne(ctx, `UPDATE secret_rekeys SET probe = $1, error = '', updated = $2 WHERE id = $3 AND finished = 0`, k.probe, storage.Micros(k.Updated), k.ID)
}

// holdRekey notes that a replica holds the next key.
func holdRekey(ctx context.Context, db *storage.DB, rekey, replica string, now time.Time) error {
	var known bool
	if err := db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM secret_rekey_holders WHERE rekey = $1 AND replica = $2)`, rekey, replica).Scan(&known); err != nil || known {
		return err
	}
	return db.Tx(ctx, func(tx *storage.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO secret_rekey_holders (rekey, replica, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, rekey, replica, storage.Micros(now))
		return err
	})
}

func rekeyHolders(ctx context.Context, q querier, rekey string) ([]string, error) {
	rows, err := q.Query(ctx, `SELECT replica FROM secret_rekey_holders WHERE rekey = $1 ORDER BY replica`, rekey)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		out = append(out, name)
	}
	return out, rows.Err()
}

func progress(ctx context.Context, tx *storage.Tx, rekey string, n int, now time.Time) error {
	return tx.ExecOne(ctx, `UPDATE secret_rekeys SET resealed = resealed + $1, updated = $2 WHERE id = $3 AND finished = 0`, n, storage.Micros(now), rekey)
}

func setPhase(ctx context.Context, tx *storage.Tx, rekey, phase string, now time.Time) error {
	return tx.ExecOne(ctx, `UPDATE secret_rekeys SET phase = $1, error = '', updated = $2 WHERE id = $3 AND finished = 0`, phase, storage.Micros(now), rekey)
}

func rekeyError(ctx context.Context, tx *storage.Tx, rekey, why string, now time.Time) error {
	return tx.ExecOne(ctx, `UPDATE secret_rekeys SET error = $1, updated = $2 WHERE id = $3 AND finished = 0`, why, storage.Micros(now), rekey)
}

func endRekey(ctx context.Context, tx *audit.Tx, rekey string, now time.Time) error {
	return tx.ExecOne(ctx, `UPDATE secret_rekeys SET phase = $1, error = '', updated = $2, finished = $2 WHERE id = $3 AND finished = 0`, PhaseDone, storage.Micros(now), rekey)
}

// resealSecrets is the Resealer of secrets, together with their versions.
func (s *Service) resealSecrets(ctx context.Context, b *Batch) error {
	old, err := secretRows(ctx, b.Tx, `WHERE name IN (SELECT name FROM secrets WHERE name > $1 AND (substr(sealed, 1, $2) = $3
		OR id IN (SELECT secret FROM secret_versions WHERE substr(sealed, 1, $2) = $3)) ORDER BY name LIMIT $4)`, b.After, prefixLen, b.Prefix, b.Limit)
	if err != nil {
		return err
	}
	for _, r := range old {
		b.Found, b.After = b.Found+1, r.Name
		if err := s.resealOne(ctx, b, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) resealOne(ctx context.Context, b *Batch, r row) error {
	beside, err := versionRows(ctx, b.Tx, r.ID)
	if err != nil {
		return err
	}
	sealed, ok := b.again(r.Secret, r.sealed)
	if ok {
		_, err = b.Tx.Exec(ctx, `UPDATE secrets SET sealed = $1 WHERE id = $2`, sealed, r.ID)
	} else {
		b.Fail("the secret " + r.Name)
		return nil
	}
	for _, v := range beside {
		if err != nil {
			return err
		}
		if sealed, ok = b.again(r.at(v.Number), v.sealed); !ok {
			b.Fail("a " + v.State + " version of the secret " + r.Name)
			return nil
		}
		_, err = b.Tx.Exec(ctx, `UPDATE secret_versions SET sealed = $1 WHERE secret = $2 AND version = $3`, sealed, r.ID, v.Number)
	}
	return err
}

// again seals anew what was sealed for s; false if it cannot be opened.
func (b *Batch) again(s Secret, sealed []byte) ([]byte, bool) {
	v, err := b.m.open(s, sealed)
	if err != nil {
		return nil, false
	}
	defer v.Wipe()
	out, err := b.m.seal(s, v)
	return out, err == nil
}

// KeyStatus says which key seals everything, and how far its replacement is.
type KeyStatus struct {
	Key        string      `json:"key" doc:"what sort of key this replica seals with; never the key"`
	NextKey    bool        `json:"next_key" doc:"this replica holds a key that is to replace it"`
	Generation int64       `json:"generation" doc:"of the keyset, one more with each change"`
	Keys       int         `json:"keys" doc:"in the keyset: one, or two during a rekey"`
	Since      time.Time   `json:"since" doc:"when the present key came into use"`
	Rekey      *RekeyState `json:"rekey,omitempty" doc:"the last rekey"`
}

// RekeyState is a rekey in an answer.
type RekeyState struct {
	ID       string      `json:"id"`
	Phase    string      `json:"phase" enum:"reseal,distribute,done"`
	By       audit.Actor `json:"by"`
	Reason   string      `json:"reason,omitempty"`
	Resealed int64       `json:"resealed" doc:"values sealed anew so far"`
	Left     int64       `json:"left" doc:"values that are still sealed under the old key, of those in the store"`
	Missing  []string    `json:"missing" doc:"replicas that are there and do not hold the next key"`
	Error    string      `json:"error,omitempty" doc:"why it does not go on"`
	Started  time.Time   `json:"started"`
	Updated  time.Time   `json:"updated"`
	Finished time.Time   `json:"finished,omitzero"`
}

// Status returns which key seals everything.
func (r *Rekeyer) Status(ctx context.Context) (KeyStatus, error) {
	m, err := r.s.turnTo(ctx, r.s.db)
	if err != nil {
		return KeyStatus{}, err
	}
	next, err := r.s.keys.Next(ctx)
	if err != nil {
		return KeyStatus{}, err
	}
	st := KeyStatus{Key: r.s.keys.kind(), NextKey: next != nil, Generation: m.generation, Keys: m.handle.Len()}
	var created int64
	if err := r.s.db.QueryRow(ctx, `SELECT created FROM secret_keys WHERE name = $1`, keysetRow).Scan(&created); err != nil {
		return st, storage.ErrUnavailable.With(err)
	}
	st.Since = storage.Time(created)
	all, err := rekeys(ctx, r.s.db, `ORDER BY started DESC LIMIT 2`)
	if err != nil || len(all) == 0 {
		return st, err
	}
	for _, k := range all {
		if k.Phase == PhaseDone {
			st.Since = k.Finished
			break
		}
	}
	st.Rekey, err = r.state(ctx, m, all[0])
	return st, err
}

func (r *Rekeyer) state(ctx context.Context, m *master, k Rekey) (*RekeyState, error) {
	st := &RekeyState{ID: k.ID, Phase: k.Phase, By: k.By, Reason: k.Reason, Resealed: k.Resealed, Missing: []string{}, Error: k.Error,
		Started: k.Started, Updated: k.Updated, Finished: k.Finished}
	if k.Phase == PhaseDone {
		return st, nil
	}
	missing, err := r.missing(ctx, k)
	if err != nil {
		return nil, err
	}
	st.Missing = append(st.Missing, missing...)
	prefixes, err := m.formerPrefixes()
	if err != nil {
		return nil, err
	}
	for _, p := range prefixes {
		var n int64
		if err := r.s.db.QueryRow(ctx, `SELECT (SELECT count(*) FROM secrets WHERE substr(sealed, 1, $1) = $2)
			+ (SELECT count(*) FROM secret_versions WHERE substr(sealed, 1, $1) = $2)`, prefixLen, p).Scan(&n); err != nil {
			return nil, storage.ErrUnavailable.With(err)
		}
		st.Left += n
	}
	return st, nil
}
