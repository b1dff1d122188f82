-- +goose Up
-- How much of the calls of a connection is kept, whom a call of a tool is
-- about, and which business objects it touches.
ALTER TABLE connections ADD COLUMN capture TEXT NOT NULL DEFAULT 'redacted';
ALTER TABLE tools ADD COLUMN subject TEXT NOT NULL DEFAULT '';
ALTER TABLE tools ADD COLUMN objects TEXT NOT NULL DEFAULT '{}';
ALTER TABLE search_events ADD COLUMN objects TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE search_events DROP COLUMN objects;
ALTER TABLE tools DROP COLUMN objects;
ALTER TABLE tools DROP COLUMN subject;
ALTER TABLE connections DROP COLUMN capture;
