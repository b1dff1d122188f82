-- +goose Up
-- PostgreSQL's full-text indexes are tuned here; SQLite's need nothing.
SELECT 1;

-- +goose Down
SELECT 1;
