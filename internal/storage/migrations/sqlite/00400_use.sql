-- +goose Up
-- What agents used, day by day: derived from the log, as the search index is,
-- and written once a day is over. What is younger than the positions is
-- gathered in memory by every replica. args is encrypted: values of arguments.
CREATE TABLE use_days (
    agent         TEXT   NOT NULL,
    connection    TEXT   NOT NULL,
    tool          TEXT   NOT NULL,
    rule          TEXT   NOT NULL, -- empty: the calls of the pair; else those that a grant (grant:NAME) or a policy determined
    stage         TEXT   NOT NULL,
    day           BIGINT NOT NULL, -- since 1970, UTC
    allowed       BIGINT NOT NULL,
    denied        BIGINT NOT NULL,
    held          BIGINT NOT NULL,
    first_allowed BIGINT NOT NULL, -- microseconds since 1970; 0: none
    last_allowed  BIGINT NOT NULL,
    last_denied   BIGINT NOT NULL,
    last_held     BIGINT NOT NULL,
    last_event    TEXT   NOT NULL, -- of the last allowed call, or of the last at all
    args          BLOB  NOT NULL,
    PRIMARY KEY (agent, connection, tool, rule, stage, day)
);
CREATE INDEX use_days_rule ON use_days (rule, day);

-- How far the log was read for what use_days holds.
CREATE TABLE use_positions (
    lane BIGINT PRIMARY KEY,
    sn   BIGINT NOT NULL
);

-- Arguments that a policy or grant of the agent named, and since when they are
-- looked at: no part of what is built again, so that building it again gives
-- the same.
CREATE TABLE use_arguments (
    agent      TEXT   NOT NULL,
    connection TEXT   NOT NULL,
    tool       TEXT   NOT NULL,
    path       TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    since      BIGINT NOT NULL, -- microseconds since 1970; 0: from the log's beginning
    PRIMARY KEY (agent, connection, tool, path)
);

CREATE TABLE use_state (
    name  TEXT   PRIMARY KEY,
    value BIGINT NOT NULL
);

-- +goose Down
DROP TABLE use_state;
DROP TABLE use_arguments;
DROP TABLE use_positions;
DROP TABLE use_days;
