-- +goose Up
-- Tool calls that answers of models proposed, for as long as they count.
CREATE TABLE proposals (
    id     TEXT   PRIMARY KEY,
    agent  TEXT   NOT NULL,
    digest BLOB  NOT NULL,
    run    TEXT   NOT NULL,
    memory TEXT   NOT NULL,
    call   TEXT   NOT NULL,
    at     BIGINT NOT NULL,
    until  BIGINT NOT NULL,
    used   TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX proposals_digest ON proposals (agent, digest);
CREATE INDEX proposals_until ON proposals (until);
-- By what a later request can be seen to continue an exchange with a model.
CREATE TABLE links (
    agent  TEXT   NOT NULL,
    digest BLOB  NOT NULL,
    run    TEXT   NOT NULL,
    memory TEXT   NOT NULL,
    at     BIGINT NOT NULL,
    PRIMARY KEY (agent, digest, run)
);
CREATE INDEX links_at ON links (at);
-- The present run of each credential that names none.
CREATE TABLE derived_runs (
    agent      TEXT   NOT NULL,
    credential TEXT   NOT NULL,
    run        TEXT   NOT NULL,
    started    BIGINT NOT NULL,
    last       BIGINT NOT NULL,
    PRIMARY KEY (agent, credential)
);

-- +goose Down
DROP TABLE derived_runs;
DROP TABLE links;
DROP TABLE proposals;
