-- +goose Up
CREATE TABLE user_groups (
    name        TEXT   PRIMARY KEY,
    id          TEXT   NOT NULL UNIQUE,
    description TEXT   NOT NULL,
    created     BIGINT NOT NULL,
    revision    BIGINT NOT NULL
);

CREATE TABLE user_group_members (
    group_name TEXT NOT NULL REFERENCES user_groups (name),
    member     TEXT NOT NULL REFERENCES users (name),
    PRIMARY KEY (group_name, member)
);
CREATE INDEX user_group_members_member ON user_group_members (member);

-- +goose Down
DROP TABLE user_group_members;
DROP TABLE user_groups;
