-- Which of the rights that serving needs this role lacks; docs/database.md shows how to grant them.
-- On a table or function that a migration has yet to make the privilege is null, and not listed.
SELECT privilege || ' on ' || name
  FROM (VALUES
        (1, 'SELECT', 'ad_variant'),
        (2, 'SELECT', 'server_setting'),
        (3, 'SELECT', 'request_log_partition'),
        (4, 'INSERT', 'request_log'),
        (5, 'INSERT', 'request_log_rejected'),
        (6, 'SELECT', 'journal_segment'),
        (7, 'INSERT', 'journal_segment'),
        (8, 'UPDATE', 'journal_segment'),
        (9, 'DELETE', 'journal_segment'),
        (10, 'EXECUTE', 'request_log_ensure(date, date)'),
        (11, 'EXECUTE', 'request_log_persistence(text, date)'),
        (12, 'EXECUTE', 'request_log_drop_before(date)'),
        (13, 'EXECUTE', 'request_log_summarize(date, date)'),
        (14, 'SELECT', 'ad_event_partition'),
        (15, 'EXECUTE', 'ad_event_ensure(date, date)'),
        (16, 'EXECUTE', 'ad_event_drop_before(date)'),
        (17, 'EXECUTE', 'ad_ingest(text, text, text, text, text, text, interval, interval)'),
        (18, 'EXECUTE', 'conversion_catch_up(interval, interval, interval)'),
        (19, 'EXECUTE', 'token_keys()'),
        (20, 'SELECT', 'catalog_state'),
        (21, 'SELECT', 'catalog_change'),
        (22, 'SELECT', 'campaign'),
        (23, 'SELECT', 'zone'),
        (24, 'SELECT', 'site'),
        (25, 'SELECT', 'traffic_hour'),
        (26, 'SELECT', 'user_segment'),
        (27, 'SELECT', 'user_frequency'),
        (28, 'EXECUTE', 'lease_take(text, bigint, text, double precision, double precision,'
                        ' integer[], date[], bigint[], bigint[], timestamptz)'),
        (29, 'EXECUTE', 'lease_settle(text, text[], interval, timestamptz)'),
        (30, 'EXECUTE', 'lease_clean(timestamptz)'),
        (31, 'EXECUTE', 'traffic_refresh(timestamptz)'),
        (32, 'EXECUTE', 'rollup_fold(integer)')
       ) AS needed (place, privilege, name)
 WHERE NOT CASE privilege
           WHEN 'EXECUTE' THEN has_function_privilege(to_regprocedure(name), privilege)
           ELSE has_table_privilege(to_regclass(name), privilege)
           END
 ORDER BY place
