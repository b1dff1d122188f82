package helpdesk

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite" // the database/sql driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed schema.sql
var schema string

//go:embed seed.sql
var seed string

// PoisonedTicket is the seeded ticket with the injected instruction.
const PoisonedTicket = "T-1007"

// Order is one row of the order book. Money is in cents.
type Order struct {
	Number     string `json:"number"`
	Customer   string `json:"customer"`
	Email      string `json:"email"`
	Address    string `json:"address"`
	Item       string `json:"item"`
	Quantity   int64  `json:"quantity"`
	TotalCents int64  `json:"total_cents"`
	Currency   string `json:"currency"`
	Status     string `json:"status"`
	Tracking   string `json:"tracking"`
	OrderedAt  string `json:"ordered_at"`
}

// Ticket is a customer's request with all that was written to it.
type Ticket struct {
	Number     string `json:"number"`
	Customer   string `json:"customer"`
	Email      string `json:"email"`
	Subject    string `json:"subject"`
	Body       string `json:"body"`
	Order      string `json:"order"`
	Status     string `json:"status"`
	Draft      string `json:"draft"`
	Resolution string `json:"resolution"`
	OpenedAt   string `json:"opened_at"`
}

// Email is a message that has left the house. Ticket is empty when it was not
// a reply to one.
type Email struct {
	ID      int64  `json:"id"`
	To      string `json:"to"`
	Subject string `json:"subject"`
	Body    string `json:"body"`
	Ticket  string `json:"ticket"`
	SentAt  string `json:"sent_at"`
}

var (
	errNoTicket = errors.New("there is no ticket of that number; list_tickets shows those there are")
	errNoOrder  = errors.New("there is no order of that number; search_orders finds them")
	errClosed   = errors.New("the ticket is closed already")
)

type store struct {
	db  *sql.DB
	now func() time.Time
}

// open opens dir/helpdesk.db; an empty database is created and seeded once.
func open(ctx context.Context, dir string, now func() time.Time) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("helpdesk data: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("helpdesk data: %w", err)
	}
	dsn := url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(dir, "helpdesk.db")),
		RawQuery: "_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(1)&_txlock=immediate"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("helpdesk database: %w", err)
	}
	s := &store{db: db, now: now}
	if err := s.prepareBusy(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("helpdesk database: %w", err), db.Close())
	}
	return s, nil
}

// prepareBusy prepares again while another process turns the new file to WAL:
// SQLite refuses that at once rather than wait.
func (s *store) prepareBusy(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := s.prepare(ctx)
		busy, ok := errors.AsType[*sqlite.Error](err)
		if !ok || busy.Code()&0xff != sqlite3.SQLITE_BUSY || attempt == 100 {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// prepare creates and seeds in one transaction, so that two processes that
// start together seed once.
func (s *store) prepare(ctx context.Context) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil || version > 0 {
			return err
		}
		for _, text := range []string{schema, seed, "PRAGMA user_version = 1"} {
			if _, err := tx.ExecContext(ctx, text); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *store) tx(ctx context.Context, work func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := work(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func (s *store) stamp() string { return s.now().UTC().Format(time.RFC3339) }

const ticketColumns = "number, customer, email, subject, body, order_number, status, draft, resolution, opened_at"

func (t *Ticket) fields() []any {
	return []any{&t.Number, &t.Customer, &t.Email, &t.Subject, &t.Body, &t.Order, &t.Status, &t.Draft, &t.Resolution, &t.OpenedAt}
}

func (s *store) tickets(ctx context.Context, status string) ([]Ticket, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+ticketColumns+" FROM tickets WHERE $1 = '' OR status = $1 ORDER BY number LIMIT 100", status)
	return collect(rows, err, func(t *Ticket) []any { return t.fields() })
}

func (s *store) ticket(ctx context.Context, number string) (Ticket, error) {
	var t Ticket
	err := s.db.QueryRowContext(ctx, "SELECT "+ticketColumns+" FROM tickets WHERE number = $1", number).Scan(t.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		return t, errNoTicket
	}
	return t, err
}

const orderColumns = "number, customer, email, address, item, quantity, total_cents, currency, status, tracking, ordered_at"

func (o *Order) fields() []any {
	return []any{&o.Number, &o.Customer, &o.Email, &o.Address, &o.Item, &o.Quantity, &o.TotalCents, &o.Currency, &o.Status, &o.Tracking, &o.OrderedAt}
}

// orders finds by part of the number, customer, e-mail address or item; an
// empty query finds all.
func (s *store) orders(ctx context.Context, query string) ([]Order, error) {
	pattern := "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(query) + "%"
	rows, err := s.db.QueryContext(ctx, "SELECT "+orderColumns+` FROM orders WHERE number LIKE $1 ESCAPE '\' OR customer LIKE $1 ESCAPE '\'
		OR email LIKE $1 ESCAPE '\' OR item LIKE $1 ESCAPE '\' ORDER BY number LIMIT 100`, pattern)
	return collect(rows, err, func(o *Order) []any { return o.fields() })
}

func (s *store) order(ctx context.Context, number string) (Order, error) {
	var o Order
	err := s.db.QueryRowContext(ctx, "SELECT "+orderColumns+" FROM orders WHERE number = $1", number).Scan(o.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		return o, errNoOrder
	}
	return o, err
}

func (s *store) draft(ctx context.Context, number, body string) error {
	return s.change(ctx, "UPDATE tickets SET draft = $2 WHERE number = $1 AND status = 'open'", number, body)
}

func (s *store) close(ctx context.Context, number, resolution string) error {
	return s.change(ctx, "UPDATE tickets SET status = 'closed', resolution = $2 WHERE number = $1 AND status = 'open'", number, resolution)
}

// change runs an update of one open ticket and says why when there was none.
func (s *store) change(ctx context.Context, text, number, value string) error {
	res, err := s.db.ExecContext(ctx, text, number, value)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n > 0 {
		return err
	}
	if _, err := s.ticket(ctx, number); err != nil {
		return err
	}
	return errClosed
}

func (s *store) send(ctx context.Context, e Email) (Email, error) {
	e.SentAt = s.stamp()
	err := s.db.QueryRowContext(ctx, "INSERT INTO outbox (recipient, subject, body, ticket_number, sent_at) VALUES ($1, $2, $3, $4, $5) RETURNING id",
		e.To, e.Subject, e.Body, e.Ticket, e.SentAt).Scan(&e.ID)
	return e, err
}

func (s *store) outbox(ctx context.Context) ([]Email, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT id, recipient, subject, body, ticket_number, sent_at FROM outbox ORDER BY id")
	return collect(rows, err, func(e *Email) []any { return []any{&e.ID, &e.To, &e.Subject, &e.Body, &e.Ticket, &e.SentAt} })
}

// arrive opens a new ticket, modelled on an earlier one, when fewer than limit
// are open: business goes on.
func (s *store) arrive(ctx context.Context, limit int) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		var open, last int
		err := tx.QueryRowContext(ctx, "SELECT count(*) FILTER (WHERE status = 'open'), max(CAST(substr(number, 3) AS INTEGER)) FROM tickets").Scan(&open, &last)
		if err != nil || open >= limit {
			return err
		}
		number, like := fmt.Sprintf("T-%d", last+1), fmt.Sprintf("T-%d", 1001+(last-1000)%10)
		_, err = tx.ExecContext(ctx, `INSERT INTO tickets (number, customer, email, subject, body, order_number, status, opened_at)
			SELECT $1, customer, email, subject, body, order_number, 'open', $3 FROM tickets WHERE number = $2`, number, like, s.stamp())
		return err
	})
}

// collect reads all rows into values of T.
func collect[T any](rows *sql.Rows, err error, fields func(*T) []any) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var v T
		if err := rows.Scan(fields(&v)...); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
