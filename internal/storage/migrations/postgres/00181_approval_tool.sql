-- +goose Up
-- What was approved before is looked for by agent and tool.
ALTER TABLE approvals ADD COLUMN connection TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN tool TEXT NOT NULL DEFAULT '';
UPDATE approvals SET connection = coalesce(binding::json ->> 'connection', ''), tool = coalesce(binding::json ->> 'tool', '');
CREATE INDEX approvals_tool ON approvals (agent, connection, tool, id);

-- +goose Down
DROP INDEX approvals_tool;
ALTER TABLE approvals DROP COLUMN tool;
ALTER TABLE approvals DROP COLUMN connection;
