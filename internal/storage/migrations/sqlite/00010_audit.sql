-- +goose Up
-- Lane 0 holds changes and belongs to every replica; the others have one
-- committer each, fenced by epoch.
CREATE TABLE lanes (
    lane     BIGINT PRIMARY KEY,
    holder   TEXT   NOT NULL,
    epoch    BIGINT NOT NULL,
    until    BIGINT NOT NULL,
    sn       BIGINT NOT NULL,
    chain    BLOB   NOT NULL,
    clean_sn BIGINT NOT NULL
);

CREATE TABLE events (
    lane   BIGINT NOT NULL,
    sn     BIGINT NOT NULL,
    id     TEXT   NOT NULL,
    type   TEXT   NOT NULL,
    call   TEXT   NOT NULL,
    run    TEXT   NOT NULL,
    agent  TEXT   NOT NULL,
    at     BIGINT NOT NULL,
    chain  BLOB   NOT NULL,
    record BLOB   NOT NULL,
    PRIMARY KEY (lane, sn)
);
CREATE UNIQUE INDEX events_id ON events (id);
CREATE INDEX events_call ON events (call) WHERE call <> '';
CREATE INDEX events_run ON events (run) WHERE run <> '';

CREATE TABLE payloads (
    lane BIGINT NOT NULL,
    sn   BIGINT NOT NULL,
    n    BIGINT NOT NULL,
    name TEXT   NOT NULL,
    salt BLOB,
    body BLOB,
    PRIMARY KEY (lane, sn, n)
);

-- +goose Down
DROP TABLE payloads;
DROP TABLE events;
DROP TABLE lanes;
