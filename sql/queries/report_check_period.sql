-- Which hours can be proved: those that are asked for, of which the single decisions and events are kept.
-- `forgotten` are hours of the rollup that are asked for and whose events are gone.
WITH kept AS (
    SELECT greatest(coalesce((SELECT min(day) FROM request_log_partition), 'infinity'), ad_event_first_day())
           ::timestamp AT TIME ZONE 'UTC' AS since
), asked AS (
    SELECT utc_hour(coalesce(%(from)s::timestamptz,
                             least((SELECT first FROM rollup_span), kept.since, now()))) AS starts,
           utc_hour(coalesce(%(to)s::timestamptz, greatest((SELECT last FROM rollup_span), now()))
                    + interval '1 hour' - interval '1 microsecond') AS ends,
           kept.since
      FROM kept
)
SELECT least(greatest(starts, since), ends) AS starts, ends,
       (SELECT count(DISTINCT hour) FROM rollup_part
         WHERE hour >= starts AND hour < least(since, ends)) AS forgotten
  FROM asked
