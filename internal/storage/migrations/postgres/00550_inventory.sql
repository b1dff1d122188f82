-- +goose Up
-- What was observed in the log, thing by thing: derived from it, as the search
-- index is. Names are bounded for each who showed them and in all; kind more/KIND
-- counts what was left out, by who showed it.
CREATE TABLE inventory_observed (
    kind        TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    source      TEXT COLLATE "C" NOT NULL, -- who showed it first, and is charged with it
    sources     TEXT   NOT NULL, -- JSON: the first few who did
    first       BIGINT NOT NULL, -- microseconds since 1970
    last        BIGINT NOT NULL,
    passed      BIGINT NOT NULL, -- when it was last let through; 0: never
    times       BIGINT NOT NULL,
    first_event TEXT   NOT NULL,
    last_event  TEXT   NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE INDEX inventory_by_source ON inventory_observed (kind, source);
CREATE INDEX inventory_by_last ON inventory_observed (last);

-- How far the log was read for it; lane -1 counts the writes.
CREATE TABLE inventory_positions (
    lane BIGINT PRIMARY KEY,
    sn   BIGINT NOT NULL
);

-- What somebody set aside until a time.
CREATE TABLE inventory_asides (
    kind    TEXT COLLATE "C" NOT NULL,
    name    TEXT COLLATE "C" NOT NULL,
    until   BIGINT NOT NULL,
    reason  TEXT   NOT NULL,
    by_name TEXT   NOT NULL,
    at      BIGINT NOT NULL,
    event   TEXT   NOT NULL,
    PRIMARY KEY (kind, name)
);

-- +goose Down
DROP TABLE inventory_asides;
DROP TABLE inventory_positions;
DROP TABLE inventory_observed;
