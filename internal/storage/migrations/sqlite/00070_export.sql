-- +goose Up
CREATE TABLE export_targets (
    name        TEXT   PRIMARY KEY,
    destination TEXT   NOT NULL,
    sent        BIGINT NOT NULL,
    rejected    BIGINT NOT NULL,
    skipped     BIGINT NOT NULL,
    sent_at     BIGINT NOT NULL,
    failing     BIGINT NOT NULL,
    told        BIGINT NOT NULL,
    error       TEXT   NOT NULL,
    blocked     TEXT   NOT NULL,
    orders      BIGINT NOT NULL,
    skip        TEXT   NOT NULL
);

CREATE TABLE export_positions (
    target TEXT   NOT NULL,
    lane   BIGINT NOT NULL,
    sn     BIGINT NOT NULL,
    PRIMARY KEY (target, lane)
);

CREATE TABLE export_files (
    target  TEXT    NOT NULL,
    dir     TEXT    NOT NULL,
    number  BIGINT  NOT NULL,
    part    TEXT    NOT NULL,
    written BIGINT  NOT NULL,
    opened  BIGINT  NOT NULL,
    closing BOOLEAN NOT NULL,
    PRIMARY KEY (target, dir)
);

-- +goose Down
DROP TABLE export_files;
DROP TABLE export_positions;
DROP TABLE export_targets;
