CREATE TABLE suppliers (
  name TEXT PRIMARY KEY,
  iban TEXT NOT NULL
);
CREATE TABLE invoices (
  number       TEXT PRIMARY KEY,
  supplier     TEXT NOT NULL REFERENCES suppliers (name),
  reference    TEXT NOT NULL,
  amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
  currency     TEXT NOT NULL,
  iban         TEXT NOT NULL,
  due          TEXT NOT NULL,
  status       TEXT NOT NULL CHECK (status IN ('open', 'held', 'paid')),
  flag         TEXT NOT NULL DEFAULT '',
  hold_reason  TEXT NOT NULL DEFAULT ''
);
CREATE INDEX invoices_by_status ON invoices (status, number);
CREATE TABLE payments (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  invoice_number TEXT NOT NULL REFERENCES invoices (number),
  amount_cents   INTEGER NOT NULL,
  currency       TEXT NOT NULL,
  payee          TEXT NOT NULL,
  iban           TEXT NOT NULL,
  status         TEXT NOT NULL CHECK (status IN ('executed', 'reversed')),
  paid_at        TEXT NOT NULL,
  reversed_at    TEXT NOT NULL DEFAULT ''
);
-- One living payment per invoice, whatever the program above believes.
CREATE UNIQUE INDEX payments_once ON payments (invoice_number) WHERE status = 'executed';
