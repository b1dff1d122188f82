-- +goose Up
-- What runs were told and read, for as long as a run may last.
CREATE TABLE flow (
    id     TEXT   PRIMARY KEY,
    run    TEXT   NOT NULL,
    at     BIGINT NOT NULL,
    sealed BLOB   NOT NULL
);
CREATE INDEX flow_run ON flow (run);
CREATE INDEX flow_at ON flow (at);
ALTER TABLE tools ADD COLUMN flow TEXT NOT NULL DEFAULT '{}';

-- +goose Down
ALTER TABLE tools DROP COLUMN flow;
DROP TABLE flow;
