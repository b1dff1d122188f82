-- +goose Up
-- Where the ledger's look at itself goes on.
CREATE TABLE self_audit (
    name     TEXT   PRIMARY KEY,
    part     TEXT   NOT NULL,
    lane     BIGINT NOT NULL,
    at       BIGINT NOT NULL,
    rounds   BIGINT NOT NULL,
    problems BIGINT NOT NULL,
    ran      BIGINT NOT NULL
);

-- +goose Down
DROP TABLE self_audit;
