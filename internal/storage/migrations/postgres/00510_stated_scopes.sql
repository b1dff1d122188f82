-- +goose Up
-- How many calls what people approved beforehand for a run is for, and how many
-- were made; 0 of 0: as many as it likes.
ALTER TABLE endorsements ADD COLUMN most BIGINT NOT NULL DEFAULT 0;
ALTER TABLE endorsements ADD COLUMN used BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE endorsements DROP COLUMN used;
ALTER TABLE endorsements DROP COLUMN most;
