-- +goose Up

-- Who may approve that an agent gets a grant of a connection ('*': of any that
-- has no row of its own) for a time.
CREATE TABLE grant_approvers (
    connection TEXT   PRIMARY KEY,
    body       TEXT   NOT NULL,
    updated    BIGINT NOT NULL
);

-- That a grant may give something that cannot be undone, in production, without
-- an end of its own: with who answers for that, why, and until when.
CREATE TABLE grant_exceptions (
    id       TEXT   PRIMARY KEY,
    grant_id TEXT   NOT NULL UNIQUE,
    until    BIGINT NOT NULL,
    body     TEXT   NOT NULL
);

-- +goose Down
DROP TABLE grant_exceptions;
DROP TABLE grant_approvers;
