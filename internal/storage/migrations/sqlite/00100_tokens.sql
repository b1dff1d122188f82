-- +goose Up
CREATE TABLE token_keys (
    generation BIGINT PRIMARY KEY,
    kid        TEXT   NOT NULL UNIQUE,
    created    BIGINT NOT NULL,
    starts     BIGINT NOT NULL,
    gone       BIGINT NOT NULL
);

CREATE TABLE token_revocations (
    id    TEXT   PRIMARY KEY,
    until BIGINT NOT NULL
);

CREATE TABLE used_assertions (
    hash  TEXT   PRIMARY KEY,
    until BIGINT NOT NULL
);
CREATE INDEX used_assertions_until ON used_assertions (until);

CREATE TABLE client_keys (
    id         TEXT   PRIMARY KEY,
    agent      TEXT   NOT NULL REFERENCES agents (name),
    thumbprint TEXT   NOT NULL,
    jwk        TEXT   NOT NULL,
    jwks_url   TEXT   NOT NULL,
    label      TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    revoked    BIGINT NOT NULL,
    last_used  BIGINT NOT NULL,
    UNIQUE (agent, thumbprint)
);

CREATE TABLE trust_rules (
    name          TEXT    PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    agent         TEXT    NOT NULL REFERENCES agents (name),
    issuer        TEXT    NOT NULL,
    audience      TEXT    NOT NULL,
    subject       TEXT    NOT NULL,
    wildcard      TEXT    NOT NULL,
    claims        TEXT    NOT NULL,
    jwks          TEXT    NOT NULL,
    jwks_url      TEXT    NOT NULL,
    ca            TEXT    NOT NULL,
    allow_private BOOLEAN NOT NULL,
    run_life      BIGINT  NOT NULL,
    created       BIGINT  NOT NULL,
    last_used     BIGINT  NOT NULL,
    revision      BIGINT  NOT NULL
);
CREATE INDEX trust_rules_agent ON trust_rules (agent);

CREATE TABLE oauth_clients (
    client_id     TEXT   PRIMARY KEY,
    id            TEXT   NOT NULL UNIQUE,
    name          TEXT   NOT NULL,
    kind          TEXT   NOT NULL,
    agent         TEXT   REFERENCES agents (name),
    redirect_uris TEXT   NOT NULL,
    created       BIGINT NOT NULL
);
CREATE INDEX oauth_clients_agent ON oauth_clients (agent);

CREATE TABLE token_sessions (
    id         TEXT   PRIMARY KEY,
    client_id  TEXT   NOT NULL,
    user_name  TEXT   NOT NULL,
    user_id    TEXT   NOT NULL,
    agent      TEXT   NOT NULL,
    agent_id   TEXT   NOT NULL,
    doors      TEXT   NOT NULL,
    scope      TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    expires    BIGINT NOT NULL,
    ended      BIGINT NOT NULL
);
CREATE INDEX token_sessions_agent ON token_sessions (agent);
CREATE INDEX token_sessions_expires ON token_sessions (expires);

CREATE TABLE oauth_codes (
    hash         TEXT   PRIMARY KEY,
    session      TEXT   NOT NULL REFERENCES token_sessions (id) ON DELETE CASCADE,
    client_id    TEXT   NOT NULL,
    redirect_uri TEXT   NOT NULL,
    challenge    TEXT   NOT NULL,
    expires      BIGINT NOT NULL,
    used         BIGINT NOT NULL
);

CREATE TABLE refresh_tokens (
    hash    TEXT   PRIMARY KEY,
    session TEXT   NOT NULL REFERENCES token_sessions (id) ON DELETE CASCADE,
    expires BIGINT NOT NULL,
    used    BIGINT NOT NULL
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session);

CREATE TABLE enrolments (
    id          TEXT   PRIMARY KEY,
    user_code   TEXT   NOT NULL UNIQUE,
    device_code TEXT   NOT NULL UNIQUE,
    agent       TEXT   NOT NULL,
    thumbprint  TEXT   NOT NULL,
    jwk         TEXT   NOT NULL,
    host        TEXT   NOT NULL,
    remote      TEXT   NOT NULL,
    created     BIGINT NOT NULL,
    expires     BIGINT NOT NULL,
    state       TEXT   NOT NULL,
    decided_by  TEXT   NOT NULL,
    client_key  TEXT   NOT NULL,
    polled      BIGINT NOT NULL
);
CREATE INDEX enrolments_expires ON enrolments (expires);

-- +goose Down
DROP TABLE enrolments;
DROP TABLE refresh_tokens;
DROP TABLE oauth_codes;
DROP TABLE token_sessions;
DROP TABLE oauth_clients;
DROP TABLE trust_rules;
DROP TABLE client_keys;
DROP TABLE used_assertions;
DROP TABLE token_revocations;
DROP TABLE token_keys;
