-- +goose Up
-- What is done about what inspection finds in a connection's calls: label -> action, as JSON.
ALTER TABLE connections ADD COLUMN inspect TEXT NOT NULL DEFAULT '{}';

-- +goose Down
ALTER TABLE connections DROP COLUMN inspect;
