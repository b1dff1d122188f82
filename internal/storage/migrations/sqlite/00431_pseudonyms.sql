-- +goose Up
-- What stands for values of an agent that a model must not see. sealed is the
-- value, encrypted with the agent's data key.
CREATE TABLE pseudonyms (
    agent_id TEXT   NOT NULL,
    token    TEXT   NOT NULL,
    sealed   BLOB   NOT NULL,
    used     BIGINT NOT NULL,
    PRIMARY KEY (agent_id, token)
);
CREATE INDEX pseudonyms_used ON pseudonyms (used);

-- +goose Down
DROP TABLE pseudonyms;
