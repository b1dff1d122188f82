-- +goose Up
-- PostgreSQL's planner is told more of words here; SQLite's lists need nothing.
SELECT 1;

-- +goose Down
SELECT 1;
