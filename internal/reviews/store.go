package reviews

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"errors"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

// querier is a *storage.DB or a transaction.
type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), text string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	if err := rows.Err(); err != nil {
		return nil, storage.ErrUnavailable.With(err)
	}
	return out, nil
}

func readReviews(ctx context.Context, q querier, where string, args ...any) ([]Review, error) {
	return collect(ctx, q, func(rows *sql.Rows) (r Review, err error) {
		var body string
		var revision int64
		if err = rows.Scan(&body, &revision); err != nil {
			return r, err
		}
		if err = json.Unmarshal([]byte(body), &r); err != nil {
			return r, ErrStored.With(err)
		}
		r.revision = revision
		return r, nil
	}, `SELECT body, revision FROM review_campaigns`+where, args...)
}

func readItems(ctx context.Context, q querier, where string, args ...any) ([]Item, error) {
	return collect(ctx, q, func(rows *sql.Rows) (it Item, err error) {
		var body string
		var look, revision int64
		if err = rows.Scan(&body, &look, &revision); err != nil {
			return it, err
		}
		if err = json.Unmarshal([]byte(body), &it); err != nil {
			return it, ErrStored.With(err)
		}
		it.look, it.revision = storage.Time(look), revision
		return it, nil
	}, `SELECT body, look, revision FROM review_items`+where, args...)
}

// stored is a review as it is kept: without what is kept beside it.
func (r Review) stored() string {
	r.Items, r.Counts = nil, Counts{}
	return string(marshal(r))
}

func (it Item) stored() string {
	it.Reviewers = nil
	return string(marshal(it))
}

func insertReview(ctx context.Context, tx *audit.Tx, r *Review, look time.Time) error {
	r.revision = 1
	_, err := tx.Exec(ctx, `INSERT INTO review_campaigns (id, name, state, created, look, body, revision) VALUES ($1, $2, $3, $4, $5, $6, 1)`,
		r.ID, r.Name, r.State, storage.Micros(r.Created), storage.Micros(look), r.stored())
	if storage.Duplicate(err) {
		return ErrExists.Say("there is a review %q already", r.Name)
	}
	return err
}

// saveReview writes a review if it is still as it was read: ErrRaced if not. It
// asks for a row back, because that the clock looked is no change that needs an
// event.
func saveReview(ctx context.Context, tx *storage.Tx, r *Review, look time.Time) error {
	var id string
	err := tx.QueryRow(ctx, `UPDATE review_campaigns SET state = $1, look = $2, body = $3, revision = revision + 1 WHERE id = $4 AND revision = $5 RETURNING id`,
		r.State, storage.Micros(look), r.stored(), r.ID, r.revision).Scan(&id)
	if storage.NoRows(err) {
		return ErrRaced
	}
	if err == nil {
		r.revision++
	}
	return err
}

func insertItem(ctx context.Context, tx *audit.Tx, it *Item) error {
	it.revision = 1
	_, err := tx.Exec(ctx, `INSERT INTO review_items (id, campaign, n, object, object_id, digest, agent, decision, decided, remediation, look, body, revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, '', 0, $8, 0, $9, 1)`,
		it.ID, it.Review, it.N, it.Subject.Object(), it.Subject.ID, it.Subject.Digest, it.Subject.Agent, it.Remediation, it.stored())
	return err
}

// saveItem writes an item if it is still as it was read: ErrRaced if not.
func saveItem(ctx context.Context, tx *storage.Tx, it *Item) error {
	var id string
	err := tx.QueryRow(ctx, `UPDATE review_items SET digest = $1, decision = $2, decided = $3, remediation = $4, look = $5, body = $6, revision = revision + 1
		WHERE id = $7 AND revision = $8 RETURNING id`,
		it.Subject.Digest, it.Decision, storage.Micros(it.Decided), it.Remediation, storage.Micros(it.look), it.stored(), it.ID, it.revision).Scan(&id)
	if storage.NoRows(err) {
		return ErrRaced
	}
	if err == nil {
		it.revision++
	}
	return err
}

// find returns a review by its identifier or name, without items.
func find(ctx context.Context, q querier, which string) (Review, error) {
	found, err := readReviews(ctx, q, ` WHERE id = $1 OR name = $1`, which)
	if err != nil || len(found) == 0 {
		return Review{}, errors.Join(err, ErrNotFound)
	}
	return found[0], nil
}

func itemsOf(ctx context.Context, q querier, review string) ([]Item, error) {
	return readItems(ctx, q, ` WHERE campaign = $1 ORDER BY n`, review)
}

// findItem returns an item by its number in a review.
func findItem(ctx context.Context, q querier, review string, n int) (Item, error) {
	found, err := readItems(ctx, q, ` WHERE campaign = $1 AND n = $2`, review, n)
	if err != nil || len(found) == 0 {
		return Item{}, errors.Join(err, ErrNoItem)
	}
	return found[0], nil
}

// kept is when something was last kept, and what it said then.
type kept struct {
	at     time.Time
	digest string
}

// LastKept returns when what was ever kept was kept last, by its identifier.
func (s *Service) LastKept(ctx context.Context) (map[string]time.Time, error) {
	found, err := lastKept(ctx, s.o.DB)
	out := make(map[string]time.Time, len(found))
	for id, k := range found {
		out[id] = k.at
	}
	return out, err
}

// revokedLast returns the names of an agent's grants that were revoked by the last
// decision about them.
func revokedLast(ctx context.Context, q querier, agent string) (map[string]bool, error) {
	type row struct{ object, decision string }
	rows, err := collect(ctx, q, func(rows *sql.Rows) (r row, err error) { return r, rows.Scan(&r.object, &r.decision) },
		`SELECT object, decision FROM review_items WHERE agent = $1 AND decision IN ('keep', 'revoke') ORDER BY decided`, agent)
	out := map[string]bool{}
	for _, r := range rows {
		if name, ok := strings.CutPrefix(r.object, Grant+"/"); ok {
			out[name] = r.decision == Revoke
		}
	}
	return out, err
}

// lastKept returns of what was ever kept, by identifier, the last time.
func lastKept(ctx context.Context, q querier) (map[string]kept, error) {
	type row struct {
		id string
		kept
	}
	rows, err := collect(ctx, q, func(rows *sql.Rows) (r row, err error) {
		var at int64
		err = rows.Scan(&r.id, &at, &r.digest)
		r.at = storage.Time(at)
		return r, err
	}, `SELECT object_id, decided, digest FROM review_items WHERE decision = 'keep' ORDER BY decided`)
	out := make(map[string]kept, len(rows))
	for _, r := range rows {
		out[r.id] = r.kept
	}
	return out, err
}
