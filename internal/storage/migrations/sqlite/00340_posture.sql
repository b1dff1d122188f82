-- +goose Up
-- Evidence: what each predicate came to, run by run. body is the evidence as
-- JSON; the event of its run holds its digest.
CREATE TABLE posture_runs (
    id      TEXT   PRIMARY KEY,
    actor   TEXT   NOT NULL,
    reason  TEXT   NOT NULL,
    started BIGINT NOT NULL,
    ended   BIGINT NOT NULL,
    event   TEXT   NOT NULL
);
CREATE TABLE posture_evidence (
    id        TEXT   PRIMARY KEY,
    run       TEXT   NOT NULL,
    predicate TEXT   NOT NULL,
    result    TEXT   NOT NULL,
    collected BIGINT NOT NULL,
    expires   BIGINT NOT NULL,
    event     TEXT   NOT NULL,
    digest    TEXT   NOT NULL,
    body      TEXT   NOT NULL
);
CREATE INDEX posture_by_predicate ON posture_evidence (predicate, collected);

-- +goose Down
DROP TABLE posture_evidence;
DROP TABLE posture_runs;
