-- Make the partitions a batch of events needs, when the keeper has not made them ahead.
SELECT request_log_ensure(%(first_day)s, %(last_day)s);
