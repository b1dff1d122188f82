-- +goose Up
CREATE TABLE approvals (
    id         TEXT    PRIMARY KEY,
    digest     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    open       BOOLEAN NOT NULL,
    revision   BIGINT  NOT NULL,
    agent      TEXT    NOT NULL,
    policies   TEXT    NOT NULL,
    binding    TEXT    NOT NULL,
    call       TEXT    NOT NULL,
    run        TEXT    NOT NULL,
    event      TEXT    NOT NULL,
    effect     TEXT    NOT NULL,
    needs      TEXT    NOT NULL,
    excluded   TEXT    NOT NULL,
    labels     TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    origin     TEXT    NOT NULL,
    server     BOOLEAN NOT NULL,
    created    BIGINT  NOT NULL,
    decide_by  BIGINT  NOT NULL,
    decided    BIGINT  NOT NULL,
    execute_by BIGINT  NOT NULL,
    settled    BIGINT  NOT NULL,
    updated    BIGINT  NOT NULL,
    due        BIGINT  NOT NULL,
    why        TEXT    NOT NULL,
    outcome    TEXT    NOT NULL,
    exec_call  TEXT    NOT NULL,
    holder     TEXT    NOT NULL,
    escalated  BIGINT  NOT NULL,
    overridden BOOLEAN NOT NULL,
    wire       BLOB,
    kept       BLOB
);
-- An identical call attaches to the one open request of its digest.
CREATE UNIQUE INDEX approvals_open ON approvals (digest) WHERE open;
CREATE INDEX approvals_state ON approvals (state, id);
-- When the clock has to look at a request again; 0 never.
CREATE INDEX approvals_due ON approvals (due) WHERE due > 0;
CREATE INDEX approvals_agent ON approvals (agent, state);
CREATE INDEX approvals_updated ON approvals (updated);

CREATE TABLE approval_decisions (
    approval   TEXT   NOT NULL REFERENCES approvals (id),
    person     TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    verdict    TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    for_person TEXT   NOT NULL,
    for_name   TEXT   NOT NULL,
    channel    TEXT   NOT NULL,
    credential TEXT   NOT NULL,
    statement  TEXT   NOT NULL,
    signature  TEXT   NOT NULL,
    PRIMARY KEY (approval, person)
);

CREATE TABLE approval_delegations (
    id         TEXT   PRIMARY KEY,
    giver      TEXT   NOT NULL,
    giver_name TEXT   NOT NULL,
    taker      TEXT   NOT NULL,
    taker_name TEXT   NOT NULL,
    since      BIGINT NOT NULL,
    until      BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    created_by TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    ended      BIGINT NOT NULL
);
CREATE INDEX approval_delegations_taker ON approval_delegations (taker, until);

-- +goose Down
DROP TABLE approval_delegations;
DROP TABLE approval_decisions;
DROP TABLE approvals;
