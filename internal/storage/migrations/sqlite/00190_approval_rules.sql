-- +goose Up
-- What identifies a call, whatever policies and grants decide about it. Older
-- requests were bound to all of these: they become void.
ALTER TABLE approvals ADD COLUMN same TEXT NOT NULL DEFAULT '';
UPDATE approvals SET same = digest;
DROP INDEX approvals_open;
CREATE UNIQUE INDEX approvals_open ON approvals (same) WHERE open;

-- +goose Down
DROP INDEX approvals_open;
CREATE UNIQUE INDEX approvals_open ON approvals (digest) WHERE open;
ALTER TABLE approvals DROP COLUMN same;
