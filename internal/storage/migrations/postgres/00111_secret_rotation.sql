-- +goose Up
-- secret_rotations: what was, is and will be done to replace the value of a
-- secret. step is the next one to do, or done or failed.
CREATE TABLE secret_rotations (
    id         TEXT   PRIMARY KEY,
    secret     TEXT   NOT NULL,
    secret_id  TEXT   NOT NULL,
    step       TEXT   NOT NULL,
    cause      TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    actor_id   TEXT   NOT NULL,
    actor      TEXT   NOT NULL,
    urgent     BIGINT NOT NULL,
    ref        TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    attempts   BIGINT NOT NULL,
    next_try   BIGINT NOT NULL,
    error      TEXT   NOT NULL,
    started    BIGINT NOT NULL,
    updated    BIGINT NOT NULL
);

CREATE UNIQUE INDEX secret_rotations_open ON secret_rotations (secret_id) WHERE step IN ('create', 'set', 'test', 'finish');
CREATE INDEX secret_rotations_secret ON secret_rotations (secret_id, started);

-- secret_leftovers: what is still alive at a provider and must not be.
CREATE TABLE secret_leftovers (
    secret_id TEXT   NOT NULL,
    version   BIGINT NOT NULL,
    secret    TEXT   NOT NULL,
    rotation  TEXT   NOT NULL,
    ref       TEXT   NOT NULL,
    urgent    BIGINT NOT NULL,
    due       BIGINT NOT NULL,
    attempts  BIGINT NOT NULL,
    error     TEXT   NOT NULL,
    created   BIGINT NOT NULL,
    PRIMARY KEY (secret_id, version)
);

-- +goose Down
DROP TABLE secret_leftovers;
DROP TABLE secret_rotations;
