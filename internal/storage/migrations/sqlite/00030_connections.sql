-- +goose Up
CREATE TABLE connections (
    id            TEXT    PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    kind          TEXT    NOT NULL,
    dialect       TEXT    NOT NULL,
    url           TEXT    NOT NULL,
    command       TEXT    NOT NULL,
    env           TEXT    NOT NULL,
    owner         TEXT    NOT NULL REFERENCES users (name),
    secret        TEXT    NOT NULL,
    auth          TEXT    NOT NULL,
    description   TEXT    NOT NULL,
    allow_private BOOLEAN NOT NULL,
    timeout_us    BIGINT  NOT NULL,
    created       BIGINT  NOT NULL,
    updated       BIGINT  NOT NULL,
    discovered    BIGINT  NOT NULL
);

CREATE TABLE tools (
    id           TEXT   PRIMARY KEY,
    connection   TEXT   NOT NULL REFERENCES connections (name) ON DELETE CASCADE,
    name         TEXT   NOT NULL,
    effect       TEXT   NOT NULL,
    status       TEXT   NOT NULL,
    definition   TEXT   NOT NULL,
    digest       TEXT   NOT NULL,
    drift        TEXT   NOT NULL,
    drift_digest TEXT   NOT NULL,
    pinned_by    TEXT   NOT NULL,
    pinned       BIGINT NOT NULL,
    seen         BIGINT NOT NULL,
    UNIQUE (connection, name)
);

-- +goose Down
DROP TABLE tools;
DROP TABLE connections;
