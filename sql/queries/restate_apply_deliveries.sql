-- Correct what campaigns have had, in the order in which whoever ingests locks it.
INSERT INTO delivery_day AS d (campaign_id, day, impressions, clicks)
SELECT c.id, (e.decided_at AT TIME ZONE c.time_zone)::date,
       sum(CASE WHEN e.kind <> 'impression' THEN 0 WHEN r.filtered IS NULL THEN 1 ELSE -1 END),
       sum(CASE WHEN e.kind <> 'click' THEN 0 WHEN r.filtered IS NULL THEN 1 ELSE -1 END)
  FROM restate_event AS r
  JOIN ad_event AS e ON (e.decision, e.kind, e.decided_at) = (r.decision, r.kind, r.decided_at)
  JOIN campaign AS c ON c.id = e.campaign_id
 WHERE e.kind IN ('impression', 'click')
 GROUP BY 1, 2
 ORDER BY 1, 2
ON CONFLICT (campaign_id, day) DO UPDATE
   SET impressions = d.impressions + excluded.impressions,
       clicks      = d.clicks      + excluded.clicks
