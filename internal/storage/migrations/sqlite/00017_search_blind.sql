-- +goose Up
-- The words of payloads become keyed digests, in a table of their own, so that
-- they can go without the rest. The index is derived and fills itself again;
-- what it held in plain is overwritten.
PRAGMA secure_delete = ON;
DROP TABLE search_text;
DELETE FROM search_events;
DELETE FROM search_positions;
CREATE VIRTUAL TABLE search_text USING fts5(words, content='', contentless_delete=1, tokenize="unicode61 remove_diacritics 0");
CREATE VIRTUAL TABLE search_blind USING fts5(words, content='', contentless_delete=1, tokenize="ascii");

-- What the index has still to do.
CREATE TABLE search_state (
    name  TEXT   PRIMARY KEY,
    value BIGINT NOT NULL
);

-- +goose Down
DROP TABLE search_state;
DROP TABLE search_blind;
