-- +goose Up
-- How a retrieval connection reads its engine, as JSON; empty for others.
ALTER TABLE connections ADD COLUMN retrieval TEXT NOT NULL DEFAULT '';

-- The documents of knowledge bases that Countersign keeps itself. seq is a
-- random number: what indexes text knows documents by it.
CREATE TABLE knowledge_documents (
    seq            INTEGER PRIMARY KEY,
    connection     TEXT    NOT NULL REFERENCES connections (name) ON DELETE CASCADE,
    id             TEXT    NOT NULL,
    title          TEXT    NOT NULL,
    text           TEXT    NOT NULL,
    owner          TEXT    NOT NULL,
    classification TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    collection     TEXT    NOT NULL,
    digest         TEXT    NOT NULL,
    put_by         TEXT    NOT NULL,
    updated        BIGINT  NOT NULL,
    UNIQUE (connection, id)
);
CREATE TABLE knowledge_readers (
    seq    INTEGER NOT NULL REFERENCES knowledge_documents (seq) ON DELETE CASCADE,
    reader TEXT    NOT NULL,
    PRIMARY KEY (seq, reader)
);
CREATE VIRTUAL TABLE search_knowledge USING fts5(title, text, content='knowledge_documents', content_rowid='seq', tokenize="porter unicode61");
-- +goose StatementBegin
CREATE TRIGGER knowledge_added AFTER INSERT ON knowledge_documents BEGIN
    INSERT INTO search_knowledge (rowid, title, text) VALUES (new.seq, new.title, new.text);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER knowledge_removed AFTER DELETE ON knowledge_documents BEGIN
    INSERT INTO search_knowledge (search_knowledge, rowid, title, text) VALUES ('delete', old.seq, old.title, old.text);
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER knowledge_removed;
DROP TRIGGER knowledge_added;
DROP TABLE search_knowledge;
DROP TABLE knowledge_readers;
DROP TABLE knowledge_documents;
ALTER TABLE connections DROP COLUMN retrieval;
