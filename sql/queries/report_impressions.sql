-- Users who had an impression, with the dimensions of a report. They are counted from single events: how
-- many are different can be told of no sum.
SELECT date_trunc('hour', e.decided_at)  AS hour,
       date_trunc('day', e.decided_at)   AS day,
       date_trunc('week', e.decided_at)  AS week,
       date_trunc('month', e.decided_at) AS month,
       coalesce(c.advertiser_id, 0)      AS advertiser,
       e.campaign_id                     AS campaign,
       e.creative_id                     AS creative,
       e.zone_id                         AS zone,
       coalesce(z.site_id, 0)            AS site,
       e.country,
       e.device,
       coalesce(c.tier, '')              AS tier,
       e.filtered IS NOT NULL            AS filtered,
       e.uid
  FROM ad_event AS e
  LEFT JOIN campaign AS c ON c.id = e.campaign_id
  LEFT JOIN zone     AS z ON z.id = e.zone_id
 WHERE e.decided_at >= %(from)s AND e.decided_at < %(to)s
   AND e.kind = 'impression' AND e.uid IS NOT NULL
