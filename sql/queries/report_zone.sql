-- Work in this time zone until the transaction ends. No row: PostgreSQL knows no zone of this name.
SELECT set_config('TimeZone', name, true)
  FROM pg_timezone_names
 WHERE lower(name) = lower(%(zone)s)
 LIMIT 1
