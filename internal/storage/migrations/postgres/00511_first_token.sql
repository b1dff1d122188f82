-- +goose Up
-- The token of the first start is for a person to sign in with: it decides, as those
-- that are made for programs do not.
UPDATE user_tokens SET kind = 'start' WHERE kind = 'api' AND name = 'first start';

-- +goose Down
UPDATE user_tokens SET kind = 'api' WHERE kind = 'start';
