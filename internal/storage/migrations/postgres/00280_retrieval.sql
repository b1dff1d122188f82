-- +goose Up
-- How a retrieval connection reads its engine, as JSON; empty for others.
ALTER TABLE connections ADD COLUMN retrieval TEXT NOT NULL DEFAULT '';

-- The documents of knowledge bases that Countersign keeps itself. seq is a
-- random number: what indexes text knows documents by it.
CREATE TABLE knowledge_documents (
    seq            BIGINT PRIMARY KEY,
    connection     TEXT   NOT NULL REFERENCES connections (name) ON DELETE CASCADE,
    id             TEXT   NOT NULL,
    title          TEXT   NOT NULL,
    text           TEXT   NOT NULL,
    owner          TEXT   NOT NULL,
    classification TEXT   NOT NULL,
    source         TEXT   NOT NULL,
    collection     TEXT   NOT NULL,
    digest         TEXT   NOT NULL,
    put_by         TEXT   NOT NULL,
    updated        BIGINT NOT NULL,
    UNIQUE (connection, id)
);
CREATE TABLE knowledge_readers (
    seq    BIGINT NOT NULL REFERENCES knowledge_documents (seq) ON DELETE CASCADE,
    reader TEXT   NOT NULL,
    PRIMARY KEY (seq, reader)
);
CREATE INDEX knowledge_text ON knowledge_documents USING gin (to_tsvector('english', title || ' ' || text));

-- +goose Down
DROP TABLE knowledge_readers;
DROP TABLE knowledge_documents;
ALTER TABLE connections DROP COLUMN retrieval;
