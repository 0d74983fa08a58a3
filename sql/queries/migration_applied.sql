-- What has been applied to this database, in order.
SELECT name, checksum FROM schema_migration ORDER BY name
