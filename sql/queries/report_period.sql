-- What a report's period is, in the session's time zone, and whether its hours are hours of the rollup.
--
-- A bound that was left out is the end of what there is. `raw_from` is the first day whose requests are
-- still kept.
WITH rollup AS (
    SELECT first, last + interval '1 hour' AS last FROM rollup_span
), period AS (
    -- Of a local time that comes twice (a midnight in the Azores) the first one is meant.
    SELECT coalesce(told.starts - CASE WHEN %(from_is_local)s AND (told.starts - interval '1 hour')::timestamp
                                                                  = told.starts::timestamp
                                       THEN interval '1 hour' ELSE interval '0' END,
                    rollup.first, date_trunc('day', now()))        AS starts,
           coalesce(told.ends - CASE WHEN %(to_is_local)s AND (told.ends - interval '1 hour')::timestamp
                                                              = told.ends::timestamp
                                     THEN interval '1 hour' ELSE interval '0' END,
                    rollup.last, date_trunc('hour', now() + interval '1 hour')) AS ends,
           rollup.first AS kept_from
      FROM rollup, (SELECT %(from)s::timestamptz AS starts, %(to)s::timestamptz AS ends) AS told
)
SELECT starts, ends,
       to_char(starts, 'YYYY-MM-DD"T"HH24:MITZH:TZM') AS starts_text,
       to_char(ends, 'YYYY-MM-DD"T"HH24:MITZH:TZM')   AS ends_text,
       starts = date_trunc('hour', starts, 'UTC') AND ends = date_trunc('hour', ends, 'UTC') AS whole_hours,
       (SELECT bool_and(extract(timezone_minute FROM day) = 0)
          FROM generate_series(greatest(starts, kept_from), ends, interval '1 day') AS day) AS whole_offsets,
       greatest(starts, kept_from) < coalesce(
           (SELECT min(day)::timestamp AT TIME ZONE 'UTC' FROM request_log_partition), 'infinity')
           AS raw_is_gone,
       greatest(starts, kept_from) < ad_event_first_day()::timestamp AT TIME ZONE 'UTC' AS events_are_gone,
       ad_event_first_day() AS events_from,
       (SELECT min(day) FROM request_log_partition) AS raw_from
  FROM period
