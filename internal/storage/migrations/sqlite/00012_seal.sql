-- +goose Up
-- The Merkle tree over the log. One row of seal_head holds its end; whoever
-- extends the tree moves that row from the end it knows.
CREATE TABLE seal_head (
    name    TEXT   PRIMARY KEY,
    size    BIGINT NOT NULL,
    root    BLOB  NOT NULL,
    key     BIGINT NOT NULL,
    blocked TEXT   NOT NULL
);

-- Where each lane is sealed up to, and its chain there.
CREATE TABLE seal_lanes (
    lane  BIGINT PRIMARY KEY,
    sn    BIGINT NOT NULL,
    chain BLOB  NOT NULL
);

-- Leaves idx to idx + n - 1 of the tree are records sn to sn + n - 1 of lane.
CREATE TABLE leaves (
    idx  BIGINT PRIMARY KEY,
    lane BIGINT NOT NULL,
    sn   BIGINT NOT NULL,
    n    BIGINT NOT NULL
);
CREATE UNIQUE INDEX leaves_place ON leaves (lane, sn);

-- C2SP tlog-tiles; the last of each level is partial.
CREATE TABLE tiles (
    level BIGINT NOT NULL,
    idx   BIGINT NOT NULL,
    width BIGINT NOT NULL,
    bytes BLOB  NOT NULL,
    PRIMARY KEY (level, idx)
);

-- size is the key: two heads of one size cannot both be signed.
CREATE TABLE checkpoints (
    size BIGINT PRIMARY KEY,
    root BLOB  NOT NULL,
    key  BIGINT NOT NULL,
    note TEXT   NOT NULL,
    at   BIGINT NOT NULL
);

CREATE TABLE cosignatures (
    size    BIGINT NOT NULL,
    witness TEXT   NOT NULL,
    line    TEXT   NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (size, witness)
);
CREATE INDEX cosignatures_witness ON cosignatures (witness, size);

-- The log's keys, in the order of use. rotation is the statement, signed by the
-- key before and this one, that made it the log's.
CREATE TABLE seal_keys (
    n        BIGINT PRIMARY KEY,
    vkey     TEXT   NOT NULL,
    sealed   BLOB  NOT NULL,
    rotation TEXT   NOT NULL,
    created  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE seal_keys;
DROP TABLE cosignatures;
DROP TABLE checkpoints;
DROP TABLE tiles;
DROP TABLE leaves;
DROP TABLE seal_lanes;
DROP TABLE seal_head;
