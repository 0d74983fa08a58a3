-- What must be right about a database before we touch it: encoding, a schema to create in, whether it
-- is a standby, and whether it has our ledger.
SELECT current_setting('server_encoding')            AS encoding,
       current_schema()                              AS schema,
       pg_is_in_recovery()                           AS standby,
       to_regclass('schema_migration') IS NOT NULL   AS has_ledger
