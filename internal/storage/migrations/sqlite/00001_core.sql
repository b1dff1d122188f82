-- +goose Up
CREATE TABLE versions (
    name    TEXT   PRIMARY KEY,
    version BIGINT NOT NULL
);

CREATE TABLE leases (
    name   TEXT   PRIMARY KEY,
    holder TEXT   NOT NULL,
    epoch  BIGINT NOT NULL,
    until  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE leases;
DROP TABLE versions;
