-- +goose Up
CREATE TABLE canaries (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    placed_at  TEXT   NOT NULL,
    digest     TEXT   NOT NULL UNIQUE,
    created_by TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    last_used  BIGINT NOT NULL,
    uses       BIGINT NOT NULL
);

-- +goose Down
DROP TABLE canaries;
