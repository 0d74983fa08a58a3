-- Rows of which nothing is left go: there is nothing any more that they would be the sum of.
DELETE FROM rollup_hour AS r
 USING (SELECT DISTINCT hour, zone_id, campaign_id, creative_id, country, device, filtered FROM restate_sum) AS n
 WHERE (r.hour, r.campaign_id, r.zone_id, r.creative_id, r.country, r.device, r.filtered)
     = (n.hour, n.campaign_id, n.zone_id, n.creative_id, n.country, n.device, n.filtered)
   AND (r.requests, r.fills, r.impressions, r.viewable, r.clicks, r.conversions) = (0, 0, 0, 0, 0, 0)
