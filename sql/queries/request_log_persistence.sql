-- Store whether new partitions are logged, and convert today's and later ones. Looks first: the
-- function takes a lock that request_log_ensure also wants, and the usual answer is that nothing
-- differs.
SELECT request_log_persistence(%(wanted)s, %(today)s)
 WHERE EXISTS (SELECT FROM request_log_partition WHERE day >= %(today)s AND log_table <> %(wanted)s)
    OR NOT EXISTS (SELECT FROM server_setting WHERE name = 'log_table' AND value = %(wanted)s)
