-- +goose Up
-- The keys of payloads. The one of kind log is sealed by the keeper and seals
-- the others. A destroyed key keeps its row, without key and name.
CREATE TABLE payload_keys (
    id        BIGINT PRIMARY KEY,
    kind      TEXT   NOT NULL,
    name      TEXT   NOT NULL,
    sealed    BYTEA,
    created   BIGINT NOT NULL,
    destroyed BIGINT NOT NULL
);
CREATE UNIQUE INDEX payload_keys_live ON payload_keys (kind, name) WHERE destroyed = 0;

-- key 0: the body stands in plain, as it was before there were keys, or is gone.
ALTER TABLE payloads ADD COLUMN key BIGINT NOT NULL DEFAULT 0;
CREATE INDEX payloads_key ON payloads (key, lane, sn);

-- +goose Down
DROP INDEX payloads_key;
ALTER TABLE payloads DROP COLUMN key;
DROP TABLE payload_keys;
