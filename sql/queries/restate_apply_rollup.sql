-- Move what has changed from one row of the rollup to the other, in the order in which whoever ingests locks
-- them. The sums are added to, never set: what others add meanwhile stays.
INSERT INTO rollup_hour AS r
       (hour, zone_id, campaign_id, creative_id, country, device, filtered,
        requests, fills, impressions, viewable, clicks, conversions, value_micros, spend_nanos)
SELECT n.hour, n.zone_id, n.campaign_id, n.creative_id, n.country, n.device, n.filtered,
       sum(n.requests), sum(n.fills), sum(n.impressions), sum(n.viewable), sum(n.clicks), sum(n.conversions),
       sum(n.value_micros), sum(n.spend_nanos)
  FROM restate_sum AS n
 GROUP BY 1, 2, 3, 4, 5, 6, 7
 ORDER BY 1, 3, 2, 4, 5, 6, 7
ON CONFLICT (hour, campaign_id, zone_id, creative_id, country, device, filtered) DO UPDATE
   SET requests     = r.requests     + excluded.requests,
       fills        = r.fills        + excluded.fills,
       impressions  = r.impressions  + excluded.impressions,
       viewable     = r.viewable     + excluded.viewable,
       clicks       = r.clicks       + excluded.clicks,
       conversions  = r.conversions  + excluded.conversions,
       value_micros = r.value_micros + excluded.value_micros,
       spend_nanos  = r.spend_nanos  + excluded.spend_nanos
