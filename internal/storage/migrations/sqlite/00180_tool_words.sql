-- +goose Up
-- How a call is said in plain words, and what kind of proposal an answer is.
ALTER TABLE tools ADD COLUMN template TEXT NOT NULL DEFAULT '';
ALTER TABLE tools ADD COLUMN proposal TEXT NOT NULL DEFAULT '';
ALTER TABLE connections ADD COLUMN proposal TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE connections DROP COLUMN proposal;
ALTER TABLE tools DROP COLUMN proposal;
ALTER TABLE tools DROP COLUMN template;
