-- Note in the ledger that a migration has been applied, in the transaction that applies it.
INSERT INTO schema_migration (name, checksum) VALUES (%(name)s, %(checksum)s)
