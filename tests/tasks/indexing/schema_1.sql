-- An index as schema 1 wrote it: before the vectors of neutral texts and of words were kept.
PRAGMA page_size = 65536;
BEGIN;
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO about VALUES
    ('model', 'some-model'), ('weights', ''), ('weights hash', 'abcd'), ('preprocess', '{}'), ('moments', '{}'),
    ('dimension', '4'), ('made', '2026-01-31 12:00:00'), ('root', '"/photos"'), ('root from here', '"."');
CREATE TABLE files (
    source PRIMARY KEY, id INTEGER NOT NULL, kind TEXT, size INTEGER, modified INTEGER, content BLOB, taken REAL,
    failure TEXT
) WITHOUT ROWID;
INSERT INTO files VALUES
    ('a.jpg', 1, 'picture', 10, 20, x'00', 30.0, NULL), ('clip.mp4', 2, 'video', 11, 21, x'01', 31.0, NULL);
CREATE TABLE moments (id INTEGER PRIMARY KEY, file INTEGER NOT NULL, start REAL, stop REAL, vector BLOB NOT NULL);
INSERT INTO moments VALUES (1, 2, 0.0, 2.5, x'0000003C00000000'), (2, 1, NULL, NULL, x'003C000000000000');
CREATE INDEX moments_of_file ON moments (file);
PRAGMA application_id = 1346720323;
PRAGMA user_version = 1;
COMMIT;
