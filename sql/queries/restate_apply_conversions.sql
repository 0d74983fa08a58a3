-- A conversion whose click or view does not count is not billed, and one whose click or view counts again is.
-- Locked in the order in which whoever ingests locks them.
--
-- Compared with the events as they are by now, not only with those that have just changed: whoever ingested a
-- conversion while an earlier restatement was filtering its click saw that still counted. Those of decisions of the day
-- and of the one before are looked at, as in `restate_events`, and those of late events that have just changed.
WITH looked_at AS (
    SELECT advertiser_id, order_id
      FROM conversion
     WHERE decided_at >= %(from)s - interval '1 day' AND decided_at < %(to)s
    UNION
    SELECT v.advertiser_id, v.order_id
      FROM restate_event AS r
      JOIN conversion AS v ON (v.decided_at, v.decision) = (r.decided_at, r.decision)
), changed AS MATERIALIZED (
    SELECT v.advertiser_id, v.order_id, CASE WHEN e.filtered IS NOT NULL THEN 'decision' END AS filtered
      FROM looked_at AS l
      JOIN conversion AS v ON (v.advertiser_id, v.order_id) = (l.advertiser_id, l.order_id)
      JOIN ad_event AS e
           ON (e.decided_at, e.decision) = (v.decided_at, v.decision)
          AND e.kind = CASE v.attributed_to WHEN 'click' THEN 'click' ELSE 'impression' END
     WHERE (e.filtered IS NULL AND v.filtered = 'decision') OR (e.filtered IS NOT NULL AND v.filtered IS NULL)
     ORDER BY v.advertiser_id, v.order_id
       FOR UPDATE OF v
), done AS (
    UPDATE conversion AS v
       SET filtered = n.filtered
      FROM changed AS n
     WHERE (v.advertiser_id, v.order_id) = (n.advertiser_id, n.order_id)
    RETURNING v.*
)
INSERT INTO restate_sum
       (hour, zone_id, campaign_id, creative_id, country, device, filtered, conversions, value_micros, spend_nanos)
SELECT utc_hour(n.decided_at), n.zone_id, n.campaign_id, n.creative_id, n.country, n.device, side.filtered,
       sum(side.sign), sum(side.sign * n.value_micros),
       sum(CASE WHEN side.filtered THEN 0
                ELSE side.sign * ad_spend_nanos('conversion', n.price_model, n.price_micros) END)
  FROM done AS n,
       LATERAL (VALUES (n.filtered IS NOT NULL, 1), (n.filtered IS NULL, -1)) AS side (filtered, sign)
 GROUP BY 1, 2, 3, 4, 5, 6, 7
