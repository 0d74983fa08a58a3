-- Drop the daily partitions before a day. Looks first, so that there is usually nothing to call.
SELECT request_log_drop_before(%(first_kept)s)
 WHERE EXISTS (SELECT FROM request_log_partition WHERE day < %(first_kept)s)
