-- +goose Up
CREATE TABLE connection_uses (
    connection TEXT   PRIMARY KEY REFERENCES connections (name) ON DELETE CASCADE,
    last_used  BIGINT NOT NULL
);

-- +goose Down
DROP TABLE connection_uses;
