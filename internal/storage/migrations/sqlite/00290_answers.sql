-- +goose Up
-- Answers to calls that nobody held, for clients that ask for them as tasks.
CREATE TABLE approval_answers (
    id         TEXT   PRIMARY KEY,
    agent      TEXT   NOT NULL,
    chain      TEXT   NOT NULL,
    connection TEXT   NOT NULL,
    tool       TEXT   NOT NULL,
    call       TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    until      BIGINT NOT NULL,
    kept       BLOB   NOT NULL
);
CREATE INDEX approval_answers_agent ON approval_answers (agent, id);
CREATE INDEX approval_answers_until ON approval_answers (until);

-- +goose Down
DROP TABLE approval_answers;
