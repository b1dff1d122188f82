-- +goose Up
CREATE TABLE search_positions (
    lane BIGINT PRIMARY KEY,
    sn   BIGINT NOT NULL
);

CREATE TABLE search_events (
    doc        INTEGER PRIMARY KEY,
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
    label      TEXT   NOT NULL
);
CREATE UNIQUE INDEX search_events_id ON search_events (id);
CREATE INDEX search_events_type ON search_events (type, id);
CREATE INDEX search_events_decision ON search_events (decision, id);
CREATE INDEX search_events_agent ON search_events (agent, id);
CREATE INDEX search_events_run ON search_events (run, id);

CREATE VIRTUAL TABLE search_text USING fts5(words, content='', contentless_delete=1, tokenize="unicode61 remove_diacritics 0");

-- +goose Down
DROP TABLE search_text;
DROP TABLE search_events;
DROP TABLE search_positions;
