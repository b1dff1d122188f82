-- +goose Up
CREATE TABLE policies (
    name    TEXT   PRIMARY KEY,
    id      TEXT   NOT NULL,
    version BIGINT NOT NULL,
    text    TEXT   NOT NULL
);

CREATE TABLE policy_versions (
    name     TEXT    NOT NULL,
    version  BIGINT  NOT NULL,
    text     TEXT    NOT NULL,
    deleted  BOOLEAN NOT NULL,
    saved_by TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    saved    BIGINT  NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE grants (
    name       TEXT   PRIMARY KEY,
    id         TEXT   NOT NULL,
    agent      TEXT   NOT NULL,
    connection TEXT   NOT NULL,
    tools      TEXT   NOT NULL,
    condition  TEXT   NOT NULL,
    expires    BIGINT NOT NULL,
    given_by   TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    revision   BIGINT NOT NULL
);
CREATE INDEX grants_agent ON grants (agent);

-- +goose Down
DROP TABLE grants;
DROP TABLE policy_versions;
DROP TABLE policies;
