-- +goose Up
-- What a trend shows of a result, beside its body, which is long: the index holds
-- all of it. posture_progress is the run under way, or the last one (id 1).
ALTER TABLE posture_evidence ADD COLUMN population BIGINT NOT NULL DEFAULT 0;
ALTER TABLE posture_evidence ADD COLUMN evaluated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE posture_evidence ADD COLUMN violated BIGINT NOT NULL DEFAULT 0;
UPDATE posture_evidence SET population = COALESCE(json_extract(body, '$.population'), 0), evaluated = COALESCE(json_extract(body, '$.evaluated'), 0), violated = COALESCE(json_extract(body, '$.violated'), 0);
DROP INDEX posture_by_predicate;
CREATE INDEX posture_by_predicate ON posture_evidence (predicate, collected, expires, result, population, evaluated, violated, id);
CREATE TABLE posture_progress (
    id      BIGINT PRIMARY KEY,
    run     TEXT   NOT NULL,
    actor   TEXT   NOT NULL,
    started BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    ended   BIGINT NOT NULL,
    asked   TEXT   NOT NULL,
    done    TEXT   NOT NULL,
    problem TEXT   NOT NULL
);

-- +goose Down
DROP TABLE posture_progress;
DROP INDEX posture_by_predicate;
CREATE INDEX posture_by_predicate ON posture_evidence (predicate, collected);
ALTER TABLE posture_evidence DROP COLUMN violated;
ALTER TABLE posture_evidence DROP COLUMN evaluated;
ALTER TABLE posture_evidence DROP COLUMN population;
