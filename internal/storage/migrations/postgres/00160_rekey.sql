-- +goose Up
ALTER TABLE secret_keys ADD COLUMN generation BIGINT NOT NULL DEFAULT 1;

CREATE TABLE secret_rekeys (
    id         TEXT   PRIMARY KEY,
    phase      TEXT   NOT NULL,
    probe      BYTEA  NOT NULL,
    resealed   BIGINT NOT NULL,
    actor_id   TEXT   NOT NULL,
    actor      TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    error      TEXT   NOT NULL,
    started    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    finished   BIGINT NOT NULL
);
CREATE UNIQUE INDEX secret_rekeys_open ON secret_rekeys (finished) WHERE finished = 0;

CREATE TABLE secret_rekey_holders (
    rekey   TEXT   NOT NULL REFERENCES secret_rekeys (id) ON DELETE CASCADE,
    replica TEXT   NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (rekey, replica)
);

-- +goose Down
DROP TABLE secret_rekey_holders;
DROP TABLE secret_rekeys;
ALTER TABLE secret_keys DROP COLUMN generation;
