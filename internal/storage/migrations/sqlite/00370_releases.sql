-- +goose Up
-- What an agent is made of at one moment. A row is never changed.
CREATE TABLE releases (
    agent   TEXT   NOT NULL,
    number  BIGINT NOT NULL,
    id      TEXT   NOT NULL UNIQUE,
    digest  TEXT   NOT NULL,
    content TEXT   NOT NULL,
    reason  TEXT   NOT NULL,
    made_by TEXT   NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (agent, number)
);

-- Which release of an agent is in force, and which is tried by a share of its
-- runs (0: none), since when, and by what it is judged.
CREATE TABLE release_states (
    agent    TEXT   PRIMARY KEY,
    stage    TEXT   NOT NULL,
    active   BIGINT NOT NULL,
    canary   BIGINT NOT NULL,
    share    BIGINT NOT NULL,
    signals  TEXT   NOT NULL,
    position TEXT   NOT NULL,
    since    BIGINT NOT NULL,
    revision BIGINT NOT NULL
);

-- What was done with releases, in order.
CREATE TABLE release_moves (
    id       TEXT   PRIMARY KEY,
    agent    TEXT   NOT NULL,
    kind     TEXT   NOT NULL,
    stage    TEXT   NOT NULL,
    number   BIGINT NOT NULL,
    previous BIGINT NOT NULL,
    reason   TEXT   NOT NULL,
    moved_by TEXT   NOT NULL,
    at       BIGINT NOT NULL
);
CREATE INDEX release_moves_agent ON release_moves (agent, id);

-- Promotions that another person has to approve.
CREATE TABLE release_requests (
    id         TEXT   PRIMARY KEY,
    agent      TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    digest     TEXT   NOT NULL,
    stage      TEXT   NOT NULL,
    share      BIGINT NOT NULL,
    signals    TEXT   NOT NULL,
    accepted   TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    asker      TEXT   NOT NULL,
    asked_by   TEXT   NOT NULL,
    asked      BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    decided_by TEXT   NOT NULL,
    decided    BIGINT NOT NULL,
    answer     TEXT   NOT NULL
);
CREATE INDEX release_requests_agent ON release_requests (agent, state);

-- +goose Down
DROP TABLE release_requests;
DROP TABLE release_moves;
DROP TABLE release_states;
DROP TABLE releases;
