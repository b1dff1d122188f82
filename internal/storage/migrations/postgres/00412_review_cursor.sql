-- +goose Up

-- How far the log was read for changes that are to be asked about.
CREATE TABLE review_cursor (
    id    BIGINT PRIMARY KEY,
    event TEXT   NOT NULL,
    at    BIGINT NOT NULL
);

-- +goose Down
DROP TABLE review_cursor;
