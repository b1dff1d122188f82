-- +goose Up
-- What the index's follower counts, in the transaction that indexes: calls by
-- the minute, and runs, so that neither is counted when somebody looks. Derived
-- like the index, and filled here from what the index has; how long decisions
-- took is known only of what is indexed from now on.
CREATE TABLE search_minutes (
    minute BIGINT NOT NULL, -- since 1970
    name   TEXT   NOT NULL, -- allowed, denied, refused, held, failed, took:N
    n      BIGINT NOT NULL,
    PRIMARY KEY (minute, name)
);
INSERT INTO search_minutes (minute, name, n)
SELECT at / 60000000, CASE type WHEN 'call.intent' THEN 'allowed' WHEN 'call.denied' THEN 'denied' WHEN 'call.refused' THEN 'refused' WHEN 'call.held' THEN 'held' ELSE 'failed' END, count(*)
FROM search_events
WHERE type IN ('call.intent', 'call.denied', 'call.refused', 'call.held') OR (type = 'call.outcome' AND status IN ('failed', 'broken'))
GROUP BY 1, 2;

CREATE TABLE search_runs (
    run      TEXT   COLLATE "C" PRIMARY KEY,
    agent    TEXT   NOT NULL,
    owner    TEXT   NOT NULL,
    stage    TEXT   NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    calls    BIGINT NOT NULL, -- allowed, denied, refused and held
    refused  BIGINT NOT NULL, -- of these, denied or refused
    held     BIGINT NOT NULL,
    failed   BIGINT NOT NULL,
    ended    BIGINT NOT NULL  -- 1: somebody ended it
);
CREATE TABLE search_run_labels (
    run   TEXT COLLATE "C" NOT NULL,
    label TEXT NOT NULL,
    PRIMARY KEY (run, label)
);
INSERT INTO search_runs (run, agent, owner, stage, first_at, last_at, calls, refused, held, failed, ended)
SELECT run, max(agent), max(owner), max(stage), min(at), max(at),
    sum(CASE WHEN type IN ('call.intent', 'call.denied', 'call.refused', 'call.held') THEN 1 ELSE 0 END),
    sum(CASE WHEN type IN ('call.denied', 'call.refused') THEN 1 ELSE 0 END),
    sum(CASE WHEN type = 'call.held' THEN 1 ELSE 0 END),
    sum(CASE WHEN type = 'call.outcome' AND status IN ('failed', 'broken') THEN 1 ELSE 0 END),
    max(CASE WHEN type = 'run.ended' THEN 1 ELSE 0 END)
FROM search_events WHERE run <> '' GROUP BY run;
INSERT INTO search_run_labels (run, label)
SELECT DISTINCT run, unnest(string_to_array(btrim(label, E'\n'), E'\n')) FROM search_events WHERE run <> '' AND label <> '';
CREATE INDEX search_runs_last ON search_runs (last_at, run);
CREATE INDEX search_runs_first ON search_runs (first_at, run);
CREATE INDEX search_runs_calls ON search_runs (calls, run);
CREATE INDEX search_runs_agent ON search_runs (agent, last_at, run);
CREATE INDEX search_runs_refused ON search_runs (last_at, run) WHERE refused > 0;
CREATE INDEX search_runs_held ON search_runs (last_at, run) WHERE held > 0;
CREATE INDEX search_runs_failed ON search_runs (last_at, run) WHERE failed > 0;

-- +goose Down
DROP TABLE search_run_labels;
DROP TABLE search_runs;
DROP TABLE search_minutes;
