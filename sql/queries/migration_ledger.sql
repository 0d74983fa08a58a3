-- The ledger of migrations; made by whoever holds the migration lock and finds it missing.
-- Not a numbered migration itself, because it must be there before the first of them can be recorded.
CREATE TABLE IF NOT EXISTS schema_migration (
    name       text        PRIMARY KEY,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_migration IS 'Which files of sql/migrations this database has, and their checksums.'
