-- Make the partitions that events of decisions of these days need.
SELECT ad_event_ensure(%(first_day)s, %(last_day)s);
