-- What campaigns with a goal have had in all, and on their own day of a moment.
SELECT c.id,
       coalesce(sum(had.count), 0)::bigint,
       coalesce(sum(had.count) FILTER (
           WHERE had.day = (to_timestamp(%(at_s)s) AT TIME ZONE c.time_zone)::date), 0)::bigint
  FROM campaign AS c
  LEFT JOIN LATERAL (
    SELECT d.day, CASE c.goal_kind WHEN 'clicks' THEN d.clicks ELSE d.impressions END AS count
      FROM delivery_day AS d
     WHERE d.campaign_id = c.id) AS had ON true
 WHERE c.goal_kind IS NOT NULL
 GROUP BY c.id
