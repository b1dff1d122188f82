-- +goose Up

-- An exception is for what a grant gives, under its name, and may be made before
-- the grant is there. Those made so far are for what their grants give now; one
-- whose grant is gone stays to be seen, under a name that no grant can have.
ALTER TABLE grant_exceptions RENAME COLUMN grant_id TO grant_name;

UPDATE grant_exceptions e SET body = (e.body::jsonb || jsonb_build_object('agent', g.agent, 'connection', g.connection, 'tools', g.tools::jsonb, 'when', g.condition))::text
    FROM grants g WHERE g.id = e.grant_name;

UPDATE grant_exceptions SET grant_name = COALESCE((SELECT g.name FROM grants g WHERE g.id = grant_name), '/' || grant_name);

-- +goose Down
UPDATE grant_exceptions SET grant_name = COALESCE((SELECT g.id FROM grants g WHERE g.name = grant_name), grant_name);
ALTER TABLE grant_exceptions RENAME COLUMN grant_name TO grant_id;
