-- +goose Up
-- Grants that are tried in place of one in force: what they would refuse is
-- noted beside the decision, and refused by nobody.
CREATE TABLE grant_shadows (
    grant_name TEXT PRIMARY KEY,
    body       TEXT NOT NULL -- the grants, as JSON
);

-- Proposals to make grants smaller, and what became of them.
CREATE TABLE use_rightsizings (
    grant_name TEXT   NOT NULL,
    id         TEXT   NOT NULL,
    agent      TEXT   NOT NULL,
    kind       TEXT   NOT NULL, -- remove, tools, arguments, stage, expiry
    state      TEXT   NOT NULL, -- proposed, tried, accepted, reverted, dropped
    body       TEXT   NOT NULL, -- the proposal, as JSON
    made       BIGINT NOT NULL, -- microseconds since 1970
    changed    BIGINT NOT NULL, -- when it came into its state
    actor      TEXT   NOT NULL, -- who brought it there
    reason     TEXT   NOT NULL,
    noticed    BIGINT NOT NULL, -- the last refusal because of it that the owner was told of
    PRIMARY KEY (grant_name, id)
);
CREATE INDEX use_rightsizings_agent ON use_rightsizings (agent, state);

-- +goose Down
DROP TABLE use_rightsizings;
DROP TABLE grant_shadows;
