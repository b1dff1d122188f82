-- +goose Up
-- The stages whose agents may reach a connection, as a JSON list; every stage if it is empty.
ALTER TABLE connections ADD COLUMN stages TEXT NOT NULL DEFAULT '[]';

-- +goose Down
ALTER TABLE connections DROP COLUMN stages;
