-- +goose Up
-- What people endorsed beforehand: counterparties of an agent and tool, and what
-- a run may do. digest is keyed; sealed is the value, or the scope.
CREATE TABLE endorsements (
    id         TEXT   PRIMARY KEY,
    kind       TEXT   NOT NULL,
    agent_id   TEXT   NOT NULL,
    agent      TEXT   NOT NULL,
    run        TEXT   NOT NULL,
    connection TEXT   NOT NULL,
    tool       TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    sealed     BYTEA  NOT NULL,
    approval   TEXT   NOT NULL,
    people     TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    ended      BIGINT NOT NULL DEFAULT 0,
    ended_by   TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX endorsements_digest ON endorsements (digest);
CREATE INDEX endorsements_run ON endorsements (run, kind);
CREATE INDEX endorsements_agent ON endorsements (agent, kind);
CREATE INDEX endorsements_approval ON endorsements (approval);
CREATE INDEX endorsements_expires ON endorsements (expires);

-- +goose Down
DROP TABLE endorsements;
