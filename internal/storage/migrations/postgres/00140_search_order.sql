-- +goose Up
-- The number of a record in its lane and the lane: the same on both engines.
ALTER TABLE search_events RENAME COLUMN doc TO place;

-- +goose Down
ALTER TABLE search_events RENAME COLUMN place TO doc;
