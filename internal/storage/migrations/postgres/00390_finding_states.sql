-- +goose Up
-- A finding counts what was seen, comes back when its cause does, and keeps what
-- people did with it.
ALTER TABLE findings ADD COLUMN agent TEXT NOT NULL DEFAULT '';
ALTER TABLE findings ADD COLUMN count BIGINT NOT NULL DEFAULT 1;
ALTER TABLE findings ADD COLUMN first_seen BIGINT NOT NULL DEFAULT 0;
ALTER TABLE findings ADD COLUMN last_seen BIGINT NOT NULL DEFAULT 0;
ALTER TABLE findings ADD COLUMN told BIGINT NOT NULL DEFAULT 0;
ALTER TABLE findings ADD COLUMN reopened BIGINT NOT NULL DEFAULT 0;
ALTER TABLE findings ADD COLUMN tune TEXT NOT NULL DEFAULT '';
ALTER TABLE findings ADD COLUMN history TEXT NOT NULL DEFAULT '[]';
UPDATE findings SET first_seen = opened, last_seen = updated, told = updated;
UPDATE findings SET last_seen = opened WHERE status = 'closed';
UPDATE findings SET agent = substr(object, 7) WHERE object LIKE 'agent/%';
CREATE INDEX findings_about ON findings (rule, object, id);
CREATE INDEX findings_order ON findings (opened, id);

-- What nobody wants to hear of until a date. An empty field is any.
CREATE TABLE finding_mutes (
    id      TEXT   PRIMARY KEY,
    rule    TEXT   NOT NULL,
    object  TEXT   NOT NULL,
    agent   TEXT   NOT NULL,
    created BIGINT NOT NULL,
    until   BIGINT NOT NULL,
    by_id   TEXT   NOT NULL,
    by_name TEXT   NOT NULL,
    reason  TEXT   NOT NULL
);
CREATE INDEX finding_mutes_until ON finding_mutes (until);

-- +goose Down
DROP TABLE finding_mutes;
DROP INDEX findings_order;
DROP INDEX findings_about;
ALTER TABLE findings DROP COLUMN history;
ALTER TABLE findings DROP COLUMN tune;
ALTER TABLE findings DROP COLUMN reopened;
ALTER TABLE findings DROP COLUMN told;
ALTER TABLE findings DROP COLUMN last_seen;
ALTER TABLE findings DROP COLUMN first_seen;
ALTER TABLE findings DROP COLUMN count;
ALTER TABLE findings DROP COLUMN agent;
