-- Drop the daily partitions of ad_event before a day, from when on no event of those days is counted any more.
-- Looks first, so that there is usually nothing to call.
SELECT ad_event_drop_before(%(first_kept)s)
 WHERE ad_event_first_day() < %(first_kept)s
    OR EXISTS (SELECT FROM ad_event_partition WHERE day < %(first_kept)s)
