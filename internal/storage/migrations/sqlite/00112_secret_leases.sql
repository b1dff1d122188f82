-- +goose Up
-- secret_leases: credentials that were made, or are about to be, and have not
-- been seen to be dead. due is when each must end.
CREATE TABLE secret_leases (
    id         TEXT   PRIMARY KEY,
    secret     TEXT   NOT NULL,
    secret_id  TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    agent      TEXT   NOT NULL,
    connection TEXT   NOT NULL,
    owner      TEXT   NOT NULL,
    call       TEXT   NOT NULL,
    holder     TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    sealed     BLOB   NOT NULL,
    issued     BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    due        BIGINT NOT NULL,
    why        TEXT   NOT NULL,
    attempts   BIGINT NOT NULL,
    error      TEXT   NOT NULL
);

CREATE INDEX secret_leases_due ON secret_leases (due);
CREATE INDEX secret_leases_secret ON secret_leases (secret_id);

-- +goose Down
DROP TABLE secret_leases;
