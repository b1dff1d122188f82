-- +goose Up
-- Incidents: what belongs to one is computed from the log, by scope (JSON: agents,
-- runs, objects, times). reach is what the agents could touch when it was opened.
CREATE TABLE incidents (
    id         TEXT   PRIMARY KEY,
    title      TEXT   NOT NULL,
    severity   TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    finding    TEXT   NOT NULL,
    scope      TEXT   NOT NULL,
    reach      TEXT   NOT NULL,
    opened     BIGINT NOT NULL,
    opened_by  TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    closed     BIGINT NOT NULL,
    closed_by  TEXT   NOT NULL,
    conclusion TEXT   NOT NULL
);
CREATE INDEX incidents_state ON incidents (state, id);
CREATE TABLE incident_notes (
    id       TEXT   PRIMARY KEY,
    incident TEXT   NOT NULL,
    at       BIGINT NOT NULL,
    by_name  TEXT   NOT NULL,
    body     TEXT   NOT NULL
);
CREATE INDEX incident_notes_of ON incident_notes (incident, id);

-- +goose Down
DROP TABLE incident_notes;
DROP TABLE incidents;
