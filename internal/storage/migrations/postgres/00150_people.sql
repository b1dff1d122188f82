-- +goose Up
-- Who vouches for a person, and under which identifier; empty for local users.
ALTER TABLE users ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN subject TEXT NOT NULL DEFAULT '';
-- Disabled because whoever vouched for them no longer does.
ALTER TABLE users ADD COLUMN gone BOOLEAN NOT NULL DEFAULT FALSE;
CREATE UNIQUE INDEX users_subject ON users (issuer, subject) WHERE issuer <> '';
-- When the agent was decommissioned, 0 if it was not.
ALTER TABLE agents ADD COLUMN retired BIGINT NOT NULL DEFAULT 0;

CREATE TABLE used_logins (
    hash  TEXT   PRIMARY KEY,
    until BIGINT NOT NULL
);
CREATE INDEX used_logins_until ON used_logins (until);

CREATE TABLE user_standing (
    user_name TEXT   PRIMARY KEY REFERENCES users (name) ON DELETE CASCADE,
    sealed    BYTEA   NOT NULL,
    checked   BIGINT NOT NULL,
    asking    BIGINT NOT NULL
);
CREATE INDEX user_standing_checked ON user_standing (checked);

-- +goose Down
DROP TABLE user_standing;
DROP TABLE used_logins;
DROP INDEX users_subject;
ALTER TABLE agents DROP COLUMN retired;
ALTER TABLE users DROP COLUMN gone;
ALTER TABLE users DROP COLUMN subject;
ALTER TABLE users DROP COLUMN issuer;
