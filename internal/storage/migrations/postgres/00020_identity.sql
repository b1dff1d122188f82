-- +goose Up
CREATE TABLE users (
    name         TEXT    PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    email        TEXT    NOT NULL,
    display_name TEXT    NOT NULL,
    role         TEXT    NOT NULL,
    disabled     BOOLEAN NOT NULL,
    password     TEXT    NOT NULL,
    created      BIGINT  NOT NULL,
    revision     BIGINT  NOT NULL
);

CREATE TABLE user_tokens (
    id        TEXT   PRIMARY KEY,
    user_name TEXT   NOT NULL REFERENCES users (name),
    kind      TEXT   NOT NULL,
    name      TEXT   NOT NULL,
    prefix    TEXT   NOT NULL,
    hash      TEXT   NOT NULL UNIQUE,
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    revoked   BIGINT NOT NULL,
    last_used BIGINT NOT NULL
);
CREATE INDEX user_tokens_user ON user_tokens (user_name);
CREATE INDEX user_tokens_expires ON user_tokens (expires);

CREATE TABLE teams (
    name        TEXT   PRIMARY KEY,
    id          TEXT   NOT NULL UNIQUE,
    description TEXT   NOT NULL,
    created     BIGINT NOT NULL,
    revision    BIGINT NOT NULL
);

CREATE TABLE team_members (
    team   TEXT NOT NULL REFERENCES teams (name) ON DELETE CASCADE,
    member TEXT NOT NULL REFERENCES users (name),
    PRIMARY KEY (team, member)
);
CREATE INDEX team_members_member ON team_members (member);

CREATE TABLE agents (
    name             TEXT    PRIMARY KEY,
    id               TEXT    NOT NULL UNIQUE,
    owner            TEXT    NOT NULL REFERENCES users (name),
    backup           TEXT    REFERENCES users (name),
    team             TEXT    REFERENCES teams (name),
    purpose          TEXT    NOT NULL,
    business_process TEXT    NOT NULL,
    stage            TEXT    NOT NULL,
    labels           TEXT    NOT NULL,
    suspended        BOOLEAN NOT NULL,
    created          BIGINT  NOT NULL,
    last_call        BIGINT  NOT NULL,
    revision         BIGINT  NOT NULL
);
CREATE INDEX agents_owner ON agents (owner);
CREATE INDEX agents_backup ON agents (backup);
CREATE INDEX agents_team ON agents (team);

CREATE TABLE agent_keys (
    id        TEXT   PRIMARY KEY,
    agent     TEXT   NOT NULL REFERENCES agents (name),
    prefix    TEXT   NOT NULL,
    hash      TEXT   NOT NULL UNIQUE,
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    revoked   BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    successor TEXT   NOT NULL
);
CREATE INDEX agent_keys_agent ON agent_keys (agent);
CREATE INDEX agent_keys_expires ON agent_keys (expires);

CREATE TABLE agent_runs (
    run        TEXT   PRIMARY KEY,
    credential TEXT   NOT NULL UNIQUE,
    agent      TEXT   NOT NULL REFERENCES agents (name),
    started_by TEXT   NOT NULL,
    started    BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    ended      BIGINT NOT NULL,
    last_used  BIGINT NOT NULL
);
CREATE INDEX agent_runs_agent ON agent_runs (agent, started);
CREATE INDEX agent_runs_expires ON agent_runs (expires);

-- +goose Down
DROP TABLE agent_runs;
DROP TABLE agent_keys;
DROP TABLE agents;
DROP TABLE team_members;
DROP TABLE teams;
DROP TABLE user_tokens;
DROP TABLE users;
