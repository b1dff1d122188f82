-- +goose Up
-- How many calls passed between the event that decided and the last cut; -1: nobody counted.
ALTER TABLE detections ADD COLUMN passed BIGINT NOT NULL DEFAULT -1;

-- +goose Down
ALTER TABLE detections DROP COLUMN passed;
