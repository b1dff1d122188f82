-- +goose Up
-- An effect that is sent some time after it was allowed, and can be cancelled until then.
ALTER TABLE tools ADD COLUMN undo_window TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN undo_window BIGINT NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN send_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX approvals_call ON approvals (call) WHERE undo_window > 0;
CREATE INDEX approvals_windowed ON approvals (run) WHERE undo_window > 0;

-- +goose Down
DROP INDEX approvals_windowed;
DROP INDEX approvals_call;
ALTER TABLE approvals DROP COLUMN send_at;
ALTER TABLE approvals DROP COLUMN undo_window;
ALTER TABLE tools DROP COLUMN undo_window;
