-- +goose Up
-- What a secret is besides its value, and how many versions it ever had.
ALTER TABLE secrets ADD COLUMN kind     TEXT   NOT NULL DEFAULT '';
ALTER TABLE secrets ADD COLUMN source   TEXT   NOT NULL DEFAULT '';
ALTER TABLE secrets ADD COLUMN settings TEXT   NOT NULL DEFAULT '{}';
ALTER TABLE secrets ADD COLUMN rotation TEXT   NOT NULL DEFAULT '{}';
ALTER TABLE secrets ADD COLUMN newest   BIGINT NOT NULL DEFAULT 0;
ALTER TABLE secrets ADD COLUMN ref      TEXT   NOT NULL DEFAULT '';
UPDATE secrets SET newest = version;

-- secret_versions: the versions beside the current one, which stands in
-- secrets: at most one pending and one previous.
CREATE TABLE secret_versions (
    secret   TEXT   NOT NULL REFERENCES secrets (id) ON DELETE CASCADE,
    version  BIGINT NOT NULL,
    state    TEXT   NOT NULL,
    sealed   BYTEA  NOT NULL,
    created  BIGINT NOT NULL,
    rotation TEXT   NOT NULL,
    ref      TEXT   NOT NULL,
    PRIMARY KEY (secret, version),
    UNIQUE (secret, state)
);

-- +goose Down
DROP TABLE secret_versions;
ALTER TABLE secrets DROP COLUMN ref;
ALTER TABLE secrets DROP COLUMN newest;
ALTER TABLE secrets DROP COLUMN rotation;
ALTER TABLE secrets DROP COLUMN settings;
ALTER TABLE secrets DROP COLUMN source;
ALTER TABLE secrets DROP COLUMN kind;
