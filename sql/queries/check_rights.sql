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
        (12, 'EXECUTE', 'request_log_drop_before(date)')
       ) AS needed (place, privilege, name)
 WHERE NOT CASE privilege
           WHEN 'EXECUTE' THEN has_function_privilege(to_regprocedure(name), privilege)
           ELSE has_table_privilege(to_regclass(name), privilege)
           END
 ORDER BY place
