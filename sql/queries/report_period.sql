-- What a report's period is, in the session's time zone, and whether its hours are hours of the rollup.
--
-- A bound that was left out is the end of what there is. `raw_from` is the first day whose requests are
-- still kept.
WITH rollup AS (
    SELECT first, last + interval '1 hour' AS last FROM rollup_span
), period AS (
    -- Of a local time that comes twice (a midnight in the Azores) the first one is meant, and PostgreSQL takes the
    -- second. Clocks go back by an hour, by half of one (Lord Howe) or by two (Troll).
    SELECT coalesce((SELECT min(told.starts - back) FROM unnest(told.steps) AS back
                      WHERE (told.starts - back)::timestamp = told.starts::timestamp
                        AND (%(from_is_local)s OR back = '0')),
                    rollup.first, date_trunc('day', now()))                     AS starts,
           coalesce((SELECT min(told.ends - back) FROM unnest(told.steps) AS back
                      WHERE (told.ends - back)::timestamp = told.ends::timestamp
                        AND (%(to_is_local)s OR back = '0')),
                    rollup.last, date_trunc('hour', now() + interval '1 hour')) AS ends,
           rollup.first AS kept_from
      FROM rollup, (SELECT %(from)s::timestamptz AS starts, %(to)s::timestamptz AS ends,
                           '{0,30min,1h,2h}'::interval[] AS steps) AS told
)
SELECT starts, ends,
       to_char(starts, 'YYYY-MM-DD"T"HH24:MITZH:TZM') AS starts_text,
       to_char(ends, 'YYYY-MM-DD"T"HH24:MITZH:TZM')   AS ends_text,
       starts = date_trunc('hour', starts, 'UTC') AND ends = date_trunc('hour', ends, 'UTC') AS whole_hours,
       (SELECT bool_and(extract(timezone_minute FROM day) = 0)
          FROM (SELECT generate_series(greatest(starts, kept_from), ends, interval '1 day')
                -- Clocks may change between the last of these and the end.
                UNION ALL SELECT ends WHERE greatest(starts, kept_from) < ends) AS days (day)) AS whole_offsets,
       greatest(starts, kept_from) < coalesce(
           (SELECT min(day)::timestamp AT TIME ZONE 'UTC' FROM request_log_partition), 'infinity')
           AS raw_is_gone,
       greatest(starts, kept_from) < ad_event_first_day()::timestamp AT TIME ZONE 'UTC' AS events_are_gone,
       ad_event_first_day() AS events_from,
       (SELECT min(day) FROM request_log_partition) AS raw_from
  FROM period
