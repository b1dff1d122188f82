-- +goose Up
-- On behalf of whom the agent acts when the subject is a person.
ALTER TABLE trust_rules ADD COLUMN user_name TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE trust_rules DROP COLUMN user_name;
