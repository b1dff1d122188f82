-- +goose Up
ALTER TABLE tools ADD COLUMN undo TEXT NOT NULL DEFAULT '{}';

CREATE TABLE undos (
    id      TEXT   PRIMARY KEY,
    object  TEXT   NOT NULL,
    state   TEXT   NOT NULL,
    by_id   TEXT   NOT NULL,
    by_name TEXT   NOT NULL,
    reason  TEXT   NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL
);
CREATE INDEX undos_state ON undos (state, id);

-- claim is the call that a step undoes, as long as the step may do or has done
-- so: a call has one at most. sealed holds the arguments until the step is settled.
CREATE TABLE undo_steps (
    undo     TEXT   NOT NULL REFERENCES undos (id),
    n        BIGINT NOT NULL,
    call     TEXT   NOT NULL,
    tool     TEXT   NOT NULL,
    agent    TEXT   NOT NULL,
    by_tool  TEXT   NOT NULL,
    state    TEXT   NOT NULL,
    claim    TEXT   UNIQUE,
    made     TEXT   NOT NULL,
    attempts BIGINT NOT NULL,
    approval TEXT   NOT NULL,
    why      TEXT   NOT NULL,
    at       BIGINT NOT NULL,
    sealed   BLOB,
    PRIMARY KEY (undo, n)
);

-- +goose Down
DROP TABLE undo_steps;
DROP TABLE undos;
ALTER TABLE tools DROP COLUMN undo;
