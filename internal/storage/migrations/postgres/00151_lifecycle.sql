-- +goose Up
-- The owner of an agent has left: until when the backup answers, or since when
-- the agent is suspended for it.
CREATE TABLE departures (
    agent     TEXT   PRIMARY KEY REFERENCES agents (name) ON DELETE CASCADE,
    owner     TEXT   NOT NULL,
    began     BIGINT NOT NULL,
    deadline  BIGINT NOT NULL,
    suspended BIGINT NOT NULL
);
CREATE INDEX departures_owner ON departures (owner);

-- An agent is offered to another owner.
CREATE TABLE agent_offers (
    agent    TEXT   PRIMARY KEY REFERENCES agents (name) ON DELETE CASCADE,
    offered  TEXT   NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    given_by TEXT   NOT NULL,
    reason   TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    expires  BIGINT NOT NULL
);

-- Since when an agent counts as used, if later than its last call.
CREATE TABLE agent_idle (
    agent TEXT   PRIMARY KEY REFERENCES agents (name) ON DELETE CASCADE,
    since BIGINT NOT NULL
);

CREATE TABLE decommissions (
    id       TEXT   PRIMARY KEY,
    agent    TEXT   NOT NULL,
    agent_id TEXT   NOT NULL UNIQUE,
    given_by TEXT   NOT NULL,
    actor    TEXT   NOT NULL,
    reason   TEXT   NOT NULL,
    state    TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    ended    BIGINT NOT NULL,
    due      BIGINT NOT NULL,
    tries    BIGINT NOT NULL,
    removed  TEXT   NOT NULL,
    probes   TEXT   NOT NULL,
    sealed   BYTEA   NOT NULL,
    revision BIGINT NOT NULL
);
CREATE INDEX decommissions_due ON decommissions (state, due);

-- +goose Down
DROP TABLE decommissions;
DROP TABLE agent_idle;
DROP TABLE agent_offers;
DROP TABLE departures;
