-- +goose Up
ALTER TABLE canaries ADD COLUMN kind TEXT NOT NULL DEFAULT 'key';

-- +goose Down
ALTER TABLE canaries DROP COLUMN kind;
