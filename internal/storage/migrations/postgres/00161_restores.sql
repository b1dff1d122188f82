-- +goose Up
-- restores: this database was filled from a backup; until a person resumes,
-- nothing that reaches out of it (leases, rotations) is done.
CREATE TABLE restores (
    id         TEXT   PRIMARY KEY,
    taken      BIGINT NOT NULL,
    restored   BIGINT NOT NULL,
    resumed    BIGINT NOT NULL,
    resumed_by TEXT   NOT NULL
);

-- +goose Down
DROP TABLE restores;
