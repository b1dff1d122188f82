-- +goose Up
-- SQLite's index is numbered in the order of time and holds the values of
-- fields as words: the first page of any search is read from the newest end of
-- the lists of documents. The index is derived and fills itself again.
PRAGMA secure_delete = ON;
DROP TABLE search_text;
DROP TABLE search_blind;
DROP TABLE search_events;
DELETE FROM search_positions;
DELETE FROM search_state;

CREATE TABLE search_events (
    doc        INTEGER PRIMARY KEY,
    place      BIGINT NOT NULL, -- sn << 16 | lane
    blind      BIGINT NOT NULL, -- 1: words of payloads are indexed, too
    id         TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    type       TEXT   NOT NULL,
    decision   TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    agent      TEXT   NOT NULL,
    owner      TEXT   NOT NULL,
    team       TEXT   NOT NULL,
    stage      TEXT   NOT NULL,
    connection TEXT   NOT NULL,
    tool       TEXT   NOT NULL,
    effect     TEXT   NOT NULL,
    run        TEXT   NOT NULL,
    call       TEXT   NOT NULL,
    actor      TEXT   NOT NULL,
    object     TEXT   NOT NULL,
    credential TEXT   NOT NULL,
    remote     TEXT   NOT NULL,
    model      TEXT   NOT NULL,
    policy     TEXT   NOT NULL,
    grant_name TEXT   NOT NULL,
    label      TEXT   NOT NULL,
    objects    TEXT   NOT NULL
);
CREATE UNIQUE INDEX search_events_id ON search_events (id);
CREATE UNIQUE INDEX search_events_place ON search_events (place);

CREATE VIRTUAL TABLE search_text USING fts5(words, content='', contentless_delete=1, tokenize="unicode61 remove_diacritics 0 tokenchars '_'");

-- The values that fields of few values have had, for searches with wildcards.
CREATE TABLE search_values (
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (field, value)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE search_values;
DROP TABLE search_text;
DROP TABLE search_events;
