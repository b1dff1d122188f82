-- +goose Up
-- One row: how long payloads are kept, and the last event up to which those
-- too old have been looked at. Whoever holds, releases, erases or expires
-- writes this row first, so that they follow each other.
CREATE TABLE payload_retention (
    name     TEXT   PRIMARY KEY,
    days     BIGINT NOT NULL,
    position TEXT   NOT NULL,
    turn     BIGINT NOT NULL
);

CREATE TABLE payload_holds (
    id          TEXT   PRIMARY KEY,
    agent       TEXT   NOT NULL,
    run         TEXT   NOT NULL,
    from_at     BIGINT NOT NULL,
    to_at       BIGINT NOT NULL,
    placed      BIGINT NOT NULL,
    placed_by   TEXT   NOT NULL,
    reason      TEXT   NOT NULL,
    released    BIGINT NOT NULL,
    released_by TEXT   NOT NULL,
    release     TEXT   NOT NULL
);

-- +goose Down
DROP TABLE payload_holds;
DROP TABLE payload_retention;
