-- +goose Up

-- Campaigns in which people keep or revoke what was given, and questions that
-- were asked because something changed. look is when the clock has to look at
-- one again, 0: never.
CREATE TABLE review_campaigns (
    id       TEXT   PRIMARY KEY,
    name     TEXT   NOT NULL UNIQUE,
    state    TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    look     BIGINT NOT NULL,
    body     TEXT   NOT NULL,
    revision BIGINT NOT NULL
);
CREATE INDEX review_campaigns_look ON review_campaigns (look) WHERE look > 0;

-- What a campaign asks about. decision is what was decided, remediation what
-- became of it: they are apart, because a decision alone changes nothing.
CREATE TABLE review_items (
    id          TEXT   PRIMARY KEY,
    campaign    TEXT   NOT NULL REFERENCES review_campaigns (id),
    n           BIGINT NOT NULL,
    object      TEXT   NOT NULL,
    object_id   TEXT   NOT NULL,
    digest      TEXT   NOT NULL,
    agent       TEXT   NOT NULL,
    decision    TEXT   NOT NULL,
    decided     BIGINT NOT NULL,
    remediation TEXT   NOT NULL,
    look        BIGINT NOT NULL,
    body        TEXT   NOT NULL,
    revision    BIGINT NOT NULL,
    UNIQUE (campaign, n)
);
CREATE INDEX review_items_object ON review_items (object_id, decided);
CREATE INDEX review_items_look ON review_items (look) WHERE look > 0;

-- +goose Down
DROP TABLE review_items;
DROP TABLE review_campaigns;
