-- +goose Up
CREATE TABLE channels (
    id       TEXT    PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    owner    TEXT    NOT NULL REFERENCES users (name),
    spec     TEXT    NOT NULL,
    created  BIGINT  NOT NULL,
    updated  BIGINT  NOT NULL
);

-- What is to be told, until it was or cannot be.
CREATE TABLE channel_deliveries (
    id       TEXT    PRIMARY KEY,
    channel  TEXT    NOT NULL REFERENCES channels (id) ON DELETE CASCADE,
    approval TEXT    NOT NULL,
    what     TEXT    NOT NULL,
    news     TEXT    NOT NULL,
    state    TEXT    NOT NULL,
    attempts BIGINT  NOT NULL,
    next     BIGINT  NOT NULL,
    error    TEXT    NOT NULL,
    ref      TEXT    NOT NULL,
    created  BIGINT  NOT NULL
);
CREATE INDEX channel_deliveries_due ON channel_deliveries (next) WHERE state = 'waiting';
CREATE INDEX channel_deliveries_of ON channel_deliveries (channel, approval);

-- Who somebody is in a chat: each person links their own account.
CREATE TABLE channel_people (
    channel  TEXT    NOT NULL REFERENCES channels (id) ON DELETE CASCADE,
    foreign_id TEXT  NOT NULL,
    person   TEXT    NOT NULL,
    linked   BIGINT  NOT NULL,
    PRIMARY KEY (channel, foreign_id)
);

-- Codes by which accounts are linked, by their digest.
CREATE TABLE channel_links (
    code     TEXT    PRIMARY KEY,
    channel  TEXT    NOT NULL REFERENCES channels (id) ON DELETE CASCADE,
    person   TEXT    NOT NULL,
    until    BIGINT  NOT NULL
);

-- Signatures that were seen: none counts twice.
CREATE TABLE channel_seen (
    signature TEXT   PRIMARY KEY,
    at        BIGINT NOT NULL
);

-- +goose Down
DROP TABLE channel_seen;
DROP TABLE channel_links;
DROP TABLE channel_people;
DROP TABLE channel_deliveries;
DROP TABLE channels;
