-- +goose Up
CREATE TABLE budgets (
    id      TEXT   PRIMARY KEY,
    name    TEXT   NOT NULL UNIQUE,
    meter   TEXT   NOT NULL,
    agent   TEXT   NOT NULL,
    team    TEXT   NOT NULL,
    tool    TEXT   NOT NULL,
    per     TEXT   NOT NULL,
    period  TEXT   NOT NULL,
    zone    TEXT   NOT NULL,
    hard    BIGINT NOT NULL,
    soft    BIGINT NOT NULL,
    reason  TEXT   NOT NULL,
    set_by  TEXT   NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL
);

-- What was used of a budget in one period, by one part of those that it is for.
CREATE TABLE budget_windows (
    budget   TEXT   NOT NULL,
    part     TEXT   NOT NULL,
    start    BIGINT NOT NULL,
    ends     BIGINT NOT NULL,
    spent    BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    told     BIGINT NOT NULL,
    PRIMARY KEY (budget, part, start)
);
CREATE INDEX budget_windows_ends ON budget_windows (ends);

-- What calls under way may use. A row goes when its call is settled; one that
-- was freed stays for a day, should its call turn up after all.
CREATE TABLE budget_reservations (
    call   TEXT   NOT NULL,
    budget TEXT   NOT NULL,
    part   TEXT   NOT NULL,
    start  BIGINT NOT NULL,
    meter  TEXT   NOT NULL,
    amount BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    freed  BIGINT NOT NULL,
    PRIMARY KEY (call, budget)
);
CREATE INDEX budget_reservations_at ON budget_reservations (at);

-- Prices that administrators set, in millionths of the currency for a million tokens.
CREATE TABLE budget_prices (
    model      TEXT   PRIMARY KEY,
    input      BIGINT NOT NULL,
    cached     BIGINT NOT NULL,
    output     BIGINT NOT NULL,
    max_output BIGINT NOT NULL,
    dated      TEXT   NOT NULL,
    source     TEXT   NOT NULL,
    set_by     TEXT   NOT NULL
);

-- +goose Down
DROP TABLE budget_prices;
DROP TABLE budget_reservations;
DROP TABLE budget_windows;
DROP TABLE budgets;
