-- +goose Up
-- What was written last is looked for one by one: keep it short, so that a search
-- for a rare word need not go through megabytes of it.
ALTER INDEX search_events_words SET (gin_pending_list_limit = 256);
ALTER INDEX search_events_blind SET (gin_pending_list_limit = 256);

-- +goose Down
ALTER INDEX search_events_blind RESET (gin_pending_list_limit);
ALTER INDEX search_events_words RESET (gin_pending_list_limit);
