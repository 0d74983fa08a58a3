-- What campaigns with a goal have had of it, in all and on their own day of a moment, and what workers hold: of all
-- but those that are archived, or of these keys, archived or not, also without a goal. The status is that of its
-- advertiser where that one keeps it from being served.
WITH wanted AS MATERIALIZED (
    SELECT c.id, c.key, c.goal_kind, c.goal_total, c.goal_daily, c.pacing, c.time_zone, c.starts_at, c.ends_at, t.at,
           (t.at AT TIME ZONE c.time_zone)::date AS today,
           CASE WHEN 'archived' IN (c.status, a.status) THEN 'archived'
                WHEN c.status = 'active' THEN a.status
                ELSE c.status END AS status
      FROM campaign AS c
      JOIN advertiser AS a ON a.id = c.advertiser_id
     CROSS JOIN (SELECT coalesce(to_timestamp(%(at_s)s::double precision), now()) AS at) AS t
     WHERE CASE WHEN %(keys)s::text[] IS NULL
                THEN c.goal_kind IS NOT NULL AND 'archived' NOT IN (c.status, a.status)
                ELSE c.key = ANY (%(keys)s::text[]) END
), had AS (
    SELECT d.id, sum(d.count)::bigint AS count, sum(d.count) FILTER (WHERE d.day = d.today)::bigint AS today
      FROM (SELECT w.id, w.today, d.day, CASE w.goal_kind WHEN 'clicks' THEN d.clicks ELSE d.impressions END AS count
              FROM wanted AS w JOIN delivery_day AS d ON d.campaign_id = w.id) AS d
     GROUP BY d.id
), leased AS (
    -- As `lease_take` adds up what is outstanding: of all days.
    SELECT w.id, sum(greatest(0, l.granted - l.used))::bigint AS held
      FROM wanted AS w JOIN lease AS l ON l.campaign_id = w.id
     GROUP BY w.id
)
SELECT w.id, w.key::text, w.status, w.goal_kind, w.goal_total, w.goal_daily, w.pacing, w.time_zone,
       extract(epoch FROM w.starts_at)::double precision, extract(epoch FROM w.ends_at)::double precision,
       extract(epoch FROM w.at)::double precision,
       coalesce(had.count, 0), coalesce(had.today, 0), coalesce(leased.held, 0)
  FROM wanted AS w
  LEFT JOIN had USING (id)
  LEFT JOIN leased USING (id)
