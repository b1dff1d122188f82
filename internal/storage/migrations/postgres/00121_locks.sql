-- +goose Up
CREATE TABLE locks (
    id         TEXT   PRIMARY KEY,
    kind       TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    placed_by  TEXT   NOT NULL,
    placed     BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    ended      BIGINT NOT NULL,
    ended_by   TEXT   NOT NULL,
    end_reason TEXT   NOT NULL
);
CREATE INDEX locks_active ON locks (ended, kind, name);

CREATE TABLE lock_acks (
    lock_id TEXT   NOT NULL REFERENCES locks (id),
    replica TEXT   NOT NULL,
    cut     BIGINT NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (lock_id, replica)
);

CREATE TABLE replicas (
    name    TEXT   PRIMARY KEY,
    started BIGINT NOT NULL,
    seen    BIGINT NOT NULL
);

-- +goose Down
DROP TABLE replicas;
DROP TABLE lock_acks;
DROP TABLE locks;
