-- +goose Up
CREATE TABLE detection_positions (
    lane BIGINT PRIMARY KEY,
    sn   BIGINT NOT NULL
);

-- What rules count, by what they count for. One row is a few hundred bytes.
CREATE TABLE detection_states (
    kind  TEXT   NOT NULL,
    value TEXT   NOT NULL,
    seen  BIGINT NOT NULL,
    body  TEXT   NOT NULL,
    PRIMARY KEY (kind, value)
);

-- Since when what is found is acted upon: what is older is only learned from.
CREATE TABLE detection_since (
    name TEXT   PRIMARY KEY,
    at   BIGINT NOT NULL
);

CREATE TABLE detection_rules (
    name    TEXT   PRIMARY KEY,
    body    TEXT   NOT NULL,
    reason  TEXT   NOT NULL,
    set_by  TEXT   NOT NULL,
    updated BIGINT NOT NULL
);

CREATE TABLE detection_modes (
    rule    TEXT   PRIMARY KEY,
    mode    TEXT   NOT NULL,
    reason  TEXT   NOT NULL,
    set_by  TEXT   NOT NULL,
    updated BIGINT NOT NULL
);

CREATE TABLE detections (
    id         TEXT   PRIMARY KEY,
    rule       TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    title      TEXT   NOT NULL,
    severity   TEXT   NOT NULL,
    keyed      TEXT   NOT NULL,
    value      TEXT   NOT NULL,
    object     TEXT   NOT NULL,
    agent      TEXT   NOT NULL,
    credential TEXT   NOT NULL,
    connection TEXT   NOT NULL,
    response   TEXT   NOT NULL,
    mode       TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    seen       TEXT   NOT NULL,
    normal     TEXT   NOT NULL,
    event      TEXT   NOT NULL,
    events     TEXT   NOT NULL,
    times      BIGINT NOT NULL,
    happened   BIGINT NOT NULL,
    decided    BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    lock_id    TEXT   NOT NULL,
    approvers  TEXT   NOT NULL,
    rate       BIGINT NOT NULL,
    contained  BIGINT NOT NULL,
    cut        BIGINT NOT NULL,
    error      TEXT   NOT NULL,
    ended      BIGINT NOT NULL,
    ended_by   TEXT   NOT NULL,
    end_reason TEXT   NOT NULL,
    forgiven   BIGINT NOT NULL
);
CREATE UNIQUE INDEX detections_open ON detections (rule, object) WHERE ended = 0;

-- Tokens that calls in the log used, by hour: what a provider's bill is compared with.
CREATE TABLE detection_usage (
    connection TEXT   NOT NULL,
    model      TEXT   NOT NULL,
    hour       BIGINT NOT NULL,
    tokens     BIGINT NOT NULL,
    calls      BIGINT NOT NULL,
    PRIMARY KEY (connection, model, hour)
);

-- +goose Down
DROP TABLE detection_usage;
DROP TABLE detections;
DROP TABLE detection_modes;
DROP TABLE detection_rules;
DROP TABLE detection_since;
DROP TABLE detection_states;
DROP TABLE detection_positions;
