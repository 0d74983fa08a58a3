-- Correct the lines of decisions, and note what the rollup gains and loses by it.
--
-- `was_filtered` keeps what was known when the decision was made ("" if it was not filtered), by which it can
-- be made again; it goes when that is what is known again.
WITH done AS (
    UPDATE request_log AS l
       SET params = jsonb_set(
               l.params, '{decision}',
               (l.params -> 'decision') - '{filtered,was_filtered}'::text[]
               || jsonb_strip_nulls(jsonb_build_object(
                      'filtered', d.filtered,
                      'was_filtered', CASE
                          WHEN l.params #> '{decision,was_filtered}' IS NULL THEN coalesce(d.old, '')
                          WHEN (l.params #>> '{decision,was_filtered}' = '') <> (d.filtered IS NULL)
                          THEN l.params #>> '{decision,was_filtered}' END)))
      FROM restate_decision AS d
     WHERE l.time >= %(from)s AND l.time < %(to)s AND l.endpoint = 'decision' AND l.id = d.id
       AND l.params #>> '{decision,filtered}' IS NOT DISTINCT FROM d.old
    RETURNING l.id, (l.params #>> '{decision,zone}')::integer AS zone_id,
              coalesce((l.params #>> '{decision,campaign}')::integer, 0) AS campaign_id,
              coalesce((l.params #>> '{decision,creative}')::integer, 0) AS creative_id,
              coalesce(l.params #>> '{decision,country}', '') AS country,
              coalesce(l.params #>> '{decision,device}', '') AS device,
              d.filtered IS NOT NULL AS filtered
)
INSERT INTO restate_sum (hour, zone_id, campaign_id, creative_id, country, device, filtered, requests, fills)
SELECT utc_hour(uuid_time(n.id)), n.zone_id, n.campaign_id, n.creative_id, n.country, n.device, side.filtered,
       sum(side.sign), sum(CASE WHEN n.campaign_id > 0 THEN side.sign ELSE 0 END)
  FROM done AS n,
       LATERAL (VALUES (n.filtered, 1), (NOT n.filtered, -1)) AS side (filtered, sign)
 GROUP BY 1, 2, 3, 4, 5, 6, 7
