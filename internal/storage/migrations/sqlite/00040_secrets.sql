-- +goose Up
-- secret_keys: the keyset that seals values (sealed by the keeper), and the
-- seed of derived keys (sealed by the keyset).
CREATE TABLE secret_keys (
    name    TEXT   PRIMARY KEY,
    sealed  BLOB   NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE secrets (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    owner      TEXT   NOT NULL REFERENCES users (name),
    connection TEXT   NOT NULL,
    hosts      TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    sealed     BLOB   NOT NULL,
    created    BIGINT NOT NULL,
    rotated    BIGINT NOT NULL,
    last_used  BIGINT NOT NULL
);

CREATE INDEX secrets_owner ON secrets (owner);

-- +goose Down
DROP TABLE secrets;
DROP TABLE secret_keys;
