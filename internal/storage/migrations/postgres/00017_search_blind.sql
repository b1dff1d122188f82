-- +goose Up
-- The words of payloads become keyed digests, in a column of their own, so that
-- they can go without the rest. The index is derived and fills itself again.
TRUNCATE search_events, search_positions;
ALTER TABLE search_events ADD COLUMN blind TSVECTOR NOT NULL;
CREATE INDEX search_events_blind ON search_events USING gin (blind);

-- What the index has still to do.
CREATE TABLE search_state (
    name  TEXT   PRIMARY KEY,
    value BIGINT NOT NULL
);

-- +goose Down
DROP TABLE search_state;
DROP INDEX search_events_blind;
ALTER TABLE search_events DROP COLUMN blind;
