-- The days whose requests are kept.
SELECT day FROM request_log_partition ORDER BY day
