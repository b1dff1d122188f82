-- +goose Up
-- People's passkeys. The credential is what the authenticator names it, base64url; the public key is a COSE key (RFC 9052).
CREATE TABLE passkeys (
    id         TEXT   PRIMARY KEY,
    credential TEXT   NOT NULL UNIQUE,
    user_id    TEXT   NOT NULL,
    user_name  TEXT   NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    name       TEXT   NOT NULL,
    public_key BLOB   NOT NULL,
    sign_count BIGINT NOT NULL,
    created    BIGINT NOT NULL,
    last_used  BIGINT NOT NULL
);
CREATE INDEX passkeys_user ON passkeys (user_id);
CREATE INDEX passkeys_user_name ON passkeys (user_name);

-- What a session's browser was asked to sign, until it did: one thing of a kind.
CREATE TABLE passkey_challenges (
    session_id TEXT   NOT NULL,
    purpose    TEXT   NOT NULL,
    user_id    TEXT   NOT NULL,
    challenge  TEXT   NOT NULL,
    nonce      TEXT   NOT NULL,
    expires    BIGINT NOT NULL,
    PRIMARY KEY (session_id, purpose)
);
CREATE INDEX passkey_challenges_expires ON passkey_challenges (expires);

-- +goose Down
DROP TABLE passkey_challenges;
DROP TABLE passkeys;
