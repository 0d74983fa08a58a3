-- What reports add up, from the hourly rollup. Times are cut in the session's time zone; only columns that
-- a report asks for are computed, and a join that nobody asks for is left out by the planner.
SELECT r.hour,
       date_trunc('day', r.hour)       AS day,
       date_trunc('week', r.hour)      AS week,
       date_trunc('month', r.hour)     AS month,
       coalesce(c.advertiser_id, 0)    AS advertiser,
       r.campaign_id                   AS campaign,
       r.creative_id                   AS creative,
       r.zone_id                       AS zone,
       coalesce(z.site_id, 0)          AS site,
       r.country,
       r.device,
       coalesce(c.tier, '')            AS tier,
       r.filtered,
       r.requests, r.fills, r.impressions, r.viewable, r.clicks, r.conversions, r.value_micros, r.spend_nanos
  FROM rollup_part AS r
  LEFT JOIN campaign AS c ON c.id = r.campaign_id
  LEFT JOIN zone     AS z ON z.id = r.zone_id
 WHERE r.hour >= %(from)s AND r.hour < %(to)s
