-- +goose Up
-- What people limit of a tool, and how much of each rate is used.
ALTER TABLE tools ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
CREATE TABLE tool_rates (
    id    TEXT   PRIMARY KEY,
    whole BIGINT NOT NULL
);
CREATE INDEX tool_rates_whole ON tool_rates (whole);

-- +goose Down
DROP TABLE tool_rates;
ALTER TABLE tools DROP COLUMN limits;
