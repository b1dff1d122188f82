-- +goose Up
-- The states that grants had. What there is now is the first that is known.
CREATE TABLE grant_versions (
    name       TEXT    NOT NULL,
    version    BIGINT  NOT NULL,
    id         TEXT    NOT NULL,
    agent      TEXT    NOT NULL,
    connection TEXT    NOT NULL,
    tools      TEXT    NOT NULL,
    condition  TEXT    NOT NULL,
    expires    BIGINT  NOT NULL,
    revoked    BOOLEAN NOT NULL,
    saved_by   TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    saved      BIGINT  NOT NULL,
    PRIMARY KEY (name, version)
);
INSERT INTO grant_versions (name, version, id, agent, connection, tools, condition, expires, revoked, saved_by, reason, saved)
    SELECT name, 1, id, agent, connection, tools, condition, expires, FALSE, given_by, reason, created FROM grants;

-- +goose Down
DROP TABLE grant_versions;
