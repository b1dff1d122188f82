-- +goose Up
CREATE TABLE saved_searches (
    owner   TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    query   TEXT    NOT NULL,
    shared  BOOLEAN NOT NULL,
    updated BIGINT  NOT NULL,
    PRIMARY KEY (owner, name)
);

-- +goose Down
DROP TABLE saved_searches;
