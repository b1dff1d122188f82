-- +goose Up
-- What a person has to see about requests for approval.
CREATE TABLE approval_notices (
    id        TEXT   PRIMARY KEY,
    person    TEXT   NOT NULL,
    kind      TEXT   NOT NULL,
    approval  TEXT   NOT NULL,
    made_by   TEXT   NOT NULL,
    said      TEXT   NOT NULL,
    created   BIGINT NOT NULL,
    seen      BIGINT NOT NULL
);
CREATE INDEX approval_notices_person ON approval_notices (person, seen, id);

-- Who may not close a finding, because it is about what they did.
ALTER TABLE findings ADD COLUMN not_by TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE findings DROP COLUMN not_by;
DROP TABLE approval_notices;
