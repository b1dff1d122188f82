-- +goose Up
-- What the planner does not know of a word it takes for half as common as the
-- rarest that it knows. Let it know more of them, or a rare word is looked for
-- event by event.
ALTER TABLE search_events ALTER COLUMN words SET STATISTICS 500;
ALTER TABLE search_events ALTER COLUMN blind SET STATISTICS 500;
ANALYZE search_events (words, blind);

-- +goose Down
ALTER TABLE search_events ALTER COLUMN blind SET STATISTICS -1;
ALTER TABLE search_events ALTER COLUMN words SET STATISTICS -1;
