-- +goose Up
-- Few events have an outcome that somebody looks for: failed, unknown.
CREATE INDEX search_events_status ON search_events (status, id) WHERE status <> '';

-- +goose Down
DROP INDEX search_events_status;
