-- What `prefork-ads check` wants to know about a database and this role in it.
SELECT current_user                                                            AS role,
       pg_is_in_recovery()                                                     AS standby,
       current_setting('max_connections')::integer
           - current_setting('superuser_reserved_connections')::integer        AS max_connections,
       (SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())    AS used_connections,
       has_schema_privilege(current_schema(), 'CREATE')                        AS may_create,
       has_table_privilege(to_regclass('ad_variant'), 'SELECT')                AS may_read_variants
