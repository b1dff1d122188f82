-- +goose Up
CREATE TABLE findings (
    id         TEXT   PRIMARY KEY,
    rule       TEXT   NOT NULL,
    severity   TEXT   NOT NULL,
    object     TEXT   NOT NULL,
    title      TEXT   NOT NULL,
    detail     TEXT   NOT NULL,
    events     TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    opened     BIGINT NOT NULL,
    updated    BIGINT NOT NULL,
    closed     BIGINT NOT NULL,
    closed_by  TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    revision   BIGINT NOT NULL
);
-- One open finding per rule and object; any number of closed ones.
CREATE UNIQUE INDEX findings_open ON findings (rule, object) WHERE status = 'open';
CREATE INDEX findings_status ON findings (status, id);

-- +goose Down
DROP TABLE findings;
