package channels

import (
	"context"
	"database/sql"
	"encoding/json/v2"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/storage"
)

type querier interface {
	Query(ctx context.Context, q string, args ...any) (*sql.Rows, error)
}

func channelRows(ctx context.Context, q querier, where string, args ...any) ([]Channel, error) {
	rows, err := q.Query(ctx, `SELECT id, name, spec, created, updated FROM channels `+where+` ORDER BY name`, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	var out []Channel
	for rows.Next() {
		var c Channel
		var spec string
		var created, updated int64
		if err := rows.Scan(&c.ID, &c.Name, &spec, &created, &updated); err != nil {
			return nil, unavailable(err)
		}
		c.Created, c.Updated = storage.Time(created), storage.Time(updated)
		if err := json.Unmarshal([]byte(spec), &c.Spec); err != nil {
			return nil, fmt.Errorf("channels: read a row: %w", err)
		}
		out = append(out, c)
	}
	return out, unavailable(rows.Err())
}

func putChannel(ctx context.Context, tx *audit.Tx, c Channel) error {
	_, err := tx.Exec(ctx, `INSERT INTO channels (id, name, owner, spec, created, updated) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, spec = excluded.spec, updated = excluded.updated`,
		c.ID, c.Name, c.Owner, text(c.Spec), storage.Micros(c.Created), storage.Micros(c.Updated))
	return err
}

// The states of a delivery.
const (
	waiting = "waiting"
	sent    = "sent"
	dead    = "dead"
)

// delivery is one message to one channel.
type delivery struct {
	ID, Channel, Approval string
	What                  string
	News                  news
	Attempts              int
	Created               time.Time
}

// news is what of a piece of news is stored until it is told.
type news struct {
	By    string   `json:"by,omitzero"`
	Said  string   `json:"said,omitzero"`
	To    []string `json:"to,omitzero"`    // e-mail addresses
	Names []string `json:"names,omitzero"` // whom it is for
	Reply string   `json:"reply,omitzero"` // where an interaction is answered
}

// What is not news of a request.
const (
	whatReply = "reply"
	whatTest  = "test"
	whatSaid  = "said" // a line of another room
)

func putDelivery(ctx context.Context, exec func(context.Context, string, ...any) (sql.Result, error), d delivery) error {
	_, err := exec(ctx, `INSERT INTO channel_deliveries (id, channel, approval, what, news, state, attempts, next, error, ref, created) VALUES ($1, $2, $3, $4, $5, 'waiting', 0, $6, '', '', $6)`,
		d.ID, d.Channel, d.Approval, d.What, text(d.News), storage.Micros(d.Created))
	return err
}

func dueDeliveries(ctx context.Context, db *storage.DB, now time.Time, limit int) ([]delivery, error) {
	rows, err := db.Query(ctx, `SELECT id, channel, approval, what, news, attempts, created FROM channel_deliveries WHERE state = 'waiting' AND next <= $1 ORDER BY next, id LIMIT $2`,
		storage.Micros(now), limit)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	var out []delivery
	for rows.Next() {
		var d delivery
		var told string
		var created int64
		if err := rows.Scan(&d.ID, &d.Channel, &d.Approval, &d.What, &told, &d.Attempts, &created); err != nil {
			return nil, unavailable(err)
		}
		d.Created = storage.Time(created)
		if err := json.Unmarshal([]byte(told), &d.News); err != nil {
			return nil, fmt.Errorf("channels: read a row: %w", err)
		}
		out = append(out, d)
	}
	return out, unavailable(rows.Err())
}

// counts says how a channel's deliveries stand.
type counts struct {
	Waiting, Dead int64
	Error         string
}

func countsOf(ctx context.Context, db *storage.DB) (map[string]counts, error) {
	rows, err := db.Query(ctx, `SELECT channel, sum(CASE WHEN state = 'waiting' THEN 1 ELSE 0 END), sum(CASE WHEN state = 'dead' THEN 1 ELSE 0 END), max(CASE WHEN state = 'sent' THEN '' ELSE error END)
		FROM channel_deliveries GROUP BY channel`)
	if err != nil {
		return nil, unavailable(err)
	}
	defer rows.Close()
	out := map[string]counts{}
	for rows.Next() {
		var id string
		var c counts
		if err := rows.Scan(&id, &c.Waiting, &c.Dead, &c.Error); err != nil {
			return nil, unavailable(err)
		}
		out[id] = c
	}
	return out, unavailable(rows.Err())
}

// refOf returns how a channel names the message that it was told of a request.
func refOf(ctx context.Context, db *storage.DB, channel, approval string) (ref string, told bool, err error) {
	err = db.QueryRow(ctx, `SELECT ref FROM channel_deliveries WHERE channel = $1 AND approval = $2 AND what IN ('requested', 'escalated') ORDER BY ref DESC LIMIT 1`, channel, approval).Scan(&ref)
	if storage.NoRows(err) {
		return "", false, nil
	}
	return ref, err == nil, unavailable(err)
}

func text(v any) string {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		panic(fmt.Sprintf("channels: a plain value cannot be marshalled: %v", err))
	}
	return string(b)
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return storage.ErrUnavailable.With(err)
}
