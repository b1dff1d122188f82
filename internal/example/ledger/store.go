package ledger

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite" // the database/sql driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed schema.sql
var schema string

//go:embed seed.sql
var seed string

// Invoice is what a supplier asks for. IBAN is the account the invoice names,
// IBANOnFile the one the supplier has always had.
type Invoice struct {
	Number      string `json:"number"`
	Supplier    string `json:"supplier"`
	Reference   string `json:"reference"`
	AmountCents int64  `json:"amount_cents"`
	Currency    string `json:"currency"`
	IBAN        string `json:"iban"`
	IBANOnFile  string `json:"iban_on_file"`
	Due         string `json:"due"`
	Status      string `json:"status"`
	Flag        string `json:"flag"`
	HoldReason  string `json:"hold_reason"`
}

// Payment is money that left, or came back when its status is "reversed".
type Payment struct {
	ID          int64  `json:"id"`
	Invoice     string `json:"invoice"`
	AmountCents int64  `json:"amount_cents"`
	Currency    string `json:"currency"`
	Payee       string `json:"payee"`
	IBAN        string `json:"iban"`
	Status      string `json:"status"`
	PaidAt      string `json:"paid_at"`
	ReversedAt  string `json:"reversed_at"`
}

var (
	errNoInvoice = errors.New("there is no invoice of that number; list_invoices shows those there are")
	errNoPayment = errors.New("there is no payment of that id; list_payments shows those there are")
)

type store struct {
	db  *sql.DB
	now func() time.Time
}

// open opens dir/ledger.db; an empty database is created and seeded once.
func open(ctx context.Context, dir string, now func() time.Time) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("ledger data: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("ledger data: %w", err)
	}
	dsn := url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(dir, "ledger.db")),
		RawQuery: "_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=foreign_keys(1)&_txlock=immediate"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("ledger database: %w", err)
	}
	s := &store{db: db, now: now}
	if err := s.prepareBusy(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("ledger database: %w", err), db.Close())
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

// Supplier is whom the company pays, with the account that finance has on file.
type Supplier struct {
	Name string `json:"name"`
	IBAN string `json:"iban"`
}

// suppliers lists all of them by name.
func (s *store) suppliers(ctx context.Context) ([]Supplier, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT name, iban FROM suppliers ORDER BY name LIMIT 200")
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := []Supplier{}
	for rows.Next() {
		var x Supplier
		if err := rows.Scan(&x.Name, &x.IBAN); err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, rows.Err()
}

const selectInvoices = `SELECT i.number, i.supplier, i.reference, i.amount_cents, i.currency, i.iban, s.iban, i.due, i.status, i.flag, i.hold_reason
	FROM invoices i JOIN suppliers s ON s.name = i.supplier `

func (i *Invoice) fields() []any {
	return []any{&i.Number, &i.Supplier, &i.Reference, &i.AmountCents, &i.Currency, &i.IBAN, &i.IBANOnFile, &i.Due, &i.Status, &i.Flag, &i.HoldReason}
}

func (s *store) invoices(ctx context.Context, status string) ([]Invoice, error) {
	rows, err := s.db.QueryContext(ctx, selectInvoices+"WHERE $1 = '' OR i.status = $1 ORDER BY i.number LIMIT 200", status)
	return collect(rows, err, func(i *Invoice) []any { return i.fields() })
}

// queryer is a transaction or the database.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func invoice(ctx context.Context, q queryer, number string) (Invoice, error) {
	var i Invoice
	err := q.QueryRowContext(ctx, selectInvoices+"WHERE i.number = $1", number).Scan(i.fields()...)
	if errors.Is(err, sql.ErrNoRows) {
		return i, errNoInvoice
	}
	return i, err
}

// change edits one invoice that check agrees to.
func (s *store) change(ctx context.Context, number string, check func(Invoice) error, text, value string) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		i, err := invoice(ctx, tx, number)
		if err != nil {
			return err
		}
		if err := check(i); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, text, number, value)
		return err
	})
}

func (s *store) flag(ctx context.Context, number, reason string) error {
	return s.change(ctx, number, func(Invoice) error { return nil }, "UPDATE invoices SET flag = $2 WHERE number = $1", reason)
}

func (s *store) hold(ctx context.Context, number, reason string) error {
	return s.change(ctx, number, func(i Invoice) error {
		if i.Status != "open" {
			return fmt.Errorf("invoice %s is %s; only an open invoice can be put on hold", number, i.Status)
		}
		return nil
	}, "UPDATE invoices SET status = 'held', hold_reason = $2 WHERE number = $1", reason)
}

// pay executes a payment of an open invoice for exactly its amount.
func (s *store) pay(ctx context.Context, p Payment) (Payment, error) {
	p.Status, p.PaidAt = "executed", s.stamp()
	err := s.tx(ctx, func(tx *sql.Tx) error {
		i, err := invoice(ctx, tx, p.Invoice)
		switch {
		case err != nil:
			return err
		case i.Status == "paid":
			return fmt.Errorf("invoice %s is paid already", i.Number)
		case i.Status == "held":
			return fmt.Errorf("invoice %s is on hold: %s", i.Number, i.HoldReason)
		case i.AmountCents != p.AmountCents || i.Currency != p.Currency:
			return fmt.Errorf("invoice %s is over %d cents %s, not %d cents %s", i.Number, i.AmountCents, i.Currency, p.AmountCents, p.Currency)
		}
		err = tx.QueryRowContext(ctx, `INSERT INTO payments (invoice_number, amount_cents, currency, payee, iban, status, paid_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id`, p.Invoice, p.AmountCents, p.Currency, p.Payee, p.IBAN, p.Status, p.PaidAt).Scan(&p.ID)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE invoices SET status = 'paid' WHERE number = $1", p.Invoice)
		return err
	})
	return p, err
}

const selectPayments = "SELECT id, invoice_number, amount_cents, currency, payee, iban, status, paid_at, reversed_at FROM payments "

func (p *Payment) fields() []any {
	return []any{&p.ID, &p.Invoice, &p.AmountCents, &p.Currency, &p.Payee, &p.IBAN, &p.Status, &p.PaidAt, &p.ReversedAt}
}

func (s *store) payments(ctx context.Context) ([]Payment, error) {
	rows, err := s.db.QueryContext(ctx, selectPayments+"ORDER BY id")
	return collect(rows, err, func(p *Payment) []any { return p.fields() })
}

// reverse takes a payment back and opens its invoice again.
func (s *store) reverse(ctx context.Context, id int64) (Payment, error) {
	var p Payment
	err := s.tx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, selectPayments+"WHERE id = $1", id).Scan(p.fields()...)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return errNoPayment
		case err != nil:
			return err
		case p.Status == "reversed":
			return fmt.Errorf("payment %d was reversed already", id)
		}
		p.Status, p.ReversedAt = "reversed", s.stamp()
		if _, err := tx.ExecContext(ctx, "UPDATE payments SET status = $2, reversed_at = $3 WHERE id = $1", id, p.Status, p.ReversedAt); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE invoices SET status = 'open' WHERE number = $1", p.Invoice)
		return err
	})
	return p, err
}

// arrive enters a new invoice, modelled on an earlier small one, when fewer
// than limit are open: business goes on.
func (s *store) arrive(ctx context.Context, limit int) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		var open, last int
		err := tx.QueryRowContext(ctx, "SELECT count(*) FILTER (WHERE status = 'open'), max(CAST(number AS INTEGER)) FROM invoices").Scan(&open, &last)
		if err != nil || open >= limit {
			return err
		}
		next, like := last+1, 4702+last%9
		_, err = tx.ExecContext(ctx, `INSERT INTO invoices (number, supplier, reference, amount_cents, currency, iban, due, status)
			SELECT CAST($1 AS TEXT), supplier, 'R-' || CAST($1 AS TEXT), amount_cents, currency, iban, $3, 'open' FROM invoices WHERE number = CAST($2 AS TEXT)`,
			next, like, s.now().AddDate(0, 0, 14).UTC().Format(time.DateOnly))
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
