-- Which hours can be proved: those that are asked for, of which the single decisions and events are kept. Behind
-- the last of them there is nothing to compare, however far the period reaches. `forgotten` are hours of the
-- rollup that are asked for and whose events are gone.
WITH kept AS (
    SELECT greatest(coalesce((SELECT min(day) FROM request_log_partition), 'infinity'), ad_event_first_day())
           ::timestamp AT TIME ZONE 'UTC' AS since,
           greatest((SELECT last FROM rollup_span), now(),
                    (SELECT max(day) FROM request_log_partition)::timestamp AT TIME ZONE 'UTC'
                    + interval '23 hours') AS last
), asked AS (
    SELECT utc_hour(coalesce(%(from)s::timestamptz,
                             least((SELECT first FROM rollup_span), kept.since, now()))) AS starts,
           utc_hour(least(coalesce(%(to)s::timestamptz,
                                   greatest((SELECT last FROM rollup_span) + interval '1 hour', now())),
                          kept.last + interval '1 hour')
                    + interval '1 hour' - interval '1 microsecond') AS ends,
           kept.since
      FROM kept
)
SELECT least(greatest(starts, since), ends) AS starts, ends,
       (SELECT count(DISTINCT hour) FROM rollup_part
         WHERE hour >= starts AND hour < least(since, ends)) AS forgotten
  FROM asked
