-- Move what has changed from one row of the rollup to the other: added like what comes in, so nobody waits for us.
INSERT INTO rollup_delta
       (hours, zones, campaigns, creatives, countries, devices, filtered,
        requests, impressions, viewable, clicks, conversions, value_micros, spend_nanos)
SELECT array_agg(extract(epoch FROM n.hour)::bigint / 3600), array_agg(n.zone_id), array_agg(n.campaign_id),
       array_agg(n.creative_id), array_agg(n.country), array_agg(n.device), array_agg(n.filtered),
       array_agg(n.requests), array_agg(n.impressions), array_agg(n.viewable), array_agg(n.clicks),
       array_agg(n.conversions), array_agg(n.value_micros), array_agg(n.spend_nanos)
  FROM restate_sum AS n
HAVING count(*) > 0
