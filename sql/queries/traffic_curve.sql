-- The traffic of the last week by hour: of all zones (no campaigns named), and of those sites that campaigns with
-- even pacing are bound to, once for all that are bound to the same. Hours are seconds since 1970.
SELECT NULL::integer[] AS campaigns,
       array_agg(extract(epoch FROM t.hour)::bigint ORDER BY t.hour), array_agg(t.requests ORDER BY t.hour)
  FROM traffic_hour AS t
 WHERE t.zone_id = 0 AND t.hour >= date_trunc('hour', now(), 'UTC') - interval '7 days'
UNION ALL
SELECT bound.campaigns, curve.hours, curve.requests
  FROM (SELECT c.targeting -> 'site' AS site, array_agg(c.id) AS campaigns
          FROM campaign AS c
         WHERE c.status = 'active' AND c.pacing = 'even' AND c.targeting -> 'site' IS NOT NULL
         GROUP BY 1
         LIMIT %(most)s) AS bound,
       LATERAL (
        SELECT array_agg(extract(epoch FROM h.hour)::bigint ORDER BY h.hour) AS hours,
               array_agg(h.requests ORDER BY h.hour) AS requests
          FROM (SELECT t.hour, sum(t.requests)::bigint AS requests
                  FROM traffic_hour AS t
                  JOIN zone AS z ON z.id = t.zone_id
                  JOIN site AS s ON s.id = z.site_id
                 WHERE t.hour >= date_trunc('hour', now(), 'UTC') - interval '7 days'
                   AND (bound.site -> 'include' IS NULL OR bound.site -> 'include' @> to_jsonb(s.key::text))
                   AND (bound.site -> 'exclude' IS NULL OR NOT bound.site -> 'exclude' @> to_jsonb(s.key::text))
                 GROUP BY t.hour) AS h) AS curve
