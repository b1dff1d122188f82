CREATE TABLE orders (
  number      TEXT PRIMARY KEY,
  customer    TEXT NOT NULL,
  email       TEXT NOT NULL,
  address     TEXT NOT NULL,
  item        TEXT NOT NULL,
  quantity    INTEGER NOT NULL,
  total_cents INTEGER NOT NULL,
  currency    TEXT NOT NULL,
  status      TEXT NOT NULL,
  tracking    TEXT NOT NULL,
  ordered_at  TEXT NOT NULL
);
CREATE TABLE tickets (
  number       TEXT PRIMARY KEY,
  customer     TEXT NOT NULL,
  email        TEXT NOT NULL,
  subject      TEXT NOT NULL,
  body         TEXT NOT NULL,
  order_number TEXT NOT NULL,
  status       TEXT NOT NULL CHECK (status IN ('open', 'closed')),
  draft        TEXT NOT NULL DEFAULT '',
  resolution   TEXT NOT NULL DEFAULT '',
  opened_at    TEXT NOT NULL
);
CREATE INDEX tickets_by_status ON tickets (status, number);
CREATE TABLE outbox (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  recipient     TEXT NOT NULL,
  subject       TEXT NOT NULL,
  body          TEXT NOT NULL,
  ticket_number TEXT NOT NULL,
  sent_at       TEXT NOT NULL
);
