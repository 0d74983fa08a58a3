-- Note what the rollup gains and loses by the events that have changed.
INSERT INTO restate_sum
       (hour, zone_id, campaign_id, creative_id, country, device, filtered,
        impressions, viewable, clicks, spend_nanos)
SELECT utc_hour(e.decided_at), e.zone_id, e.campaign_id, e.creative_id, e.country, e.device, side.filtered,
       sum(CASE e.kind WHEN 'impression' THEN side.sign ELSE 0 END),
       sum(CASE e.kind WHEN 'viewable' THEN side.sign ELSE 0 END),
       sum(CASE e.kind WHEN 'click' THEN side.sign ELSE 0 END),
       sum(CASE WHEN side.filtered THEN 0
                ELSE side.sign * ad_spend_nanos(e.kind, e.price_model, e.price_micros) END)
  FROM restate_event AS r
  JOIN ad_event AS e ON (e.decision, e.kind, e.decided_at) = (r.decision, r.kind, r.decided_at),
       LATERAL (VALUES (r.filtered IS NOT NULL, 1), (r.filtered IS NULL, -1)) AS side (filtered, sign)
 GROUP BY 1, 2, 3, 4, 5, 6, 7
