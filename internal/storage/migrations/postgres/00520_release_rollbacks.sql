-- +goose Up
-- At which revision a release was last rolled back: {"NUMBER": REVISION}.
ALTER TABLE release_states ADD COLUMN rolled TEXT NOT NULL DEFAULT '';
-- The versions that a move made of grants: {"NAME": VERSION}.
ALTER TABLE release_moves ADD COLUMN took TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE release_moves DROP COLUMN took;
ALTER TABLE release_states DROP COLUMN rolled;
