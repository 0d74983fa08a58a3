-- A report: sums by any grouping of the dimensions, with words for the ids.
--
-- What varies with the command stands in braces and comes from `report/columns.py` alone. `level` is what
-- grouping() says: a bit for each dimension asked for, set where a row sums over it, so that a total is
-- told from a row whose value is not known. The parts are sums and, if asked for, different users; each is
-- grouped on its own and the last GROUP BY lays them side by side.
SELECT g.level,
       to_char(g.hour, 'YYYY-MM-DD"T"HH24:MITZH:TZM')                       AS hour,
       to_char(g.day, 'YYYY-MM-DD')                                         AS day,
       to_char(g.week, 'IYYY-"W"IW')                                        AS week,
       to_char(g.month, 'YYYY-MM')                                          AS month,
       CASE g.advertiser WHEN 0 THEN '' ELSE coalesce(a.key::text, '#' || g.advertiser) END AS advertiser,
       CASE g.campaign   WHEN 0 THEN '' ELSE coalesce(c.key::text, '#' || g.campaign)   END AS campaign,
       CASE g.creative   WHEN 0 THEN '' ELSE coalesce(k.key::text, '#' || g.creative)   END AS creative,
       CASE g.zone       WHEN 0 THEN '' ELSE coalesce(z.key::text, '#' || g.zone)       END AS zone,
       CASE g.site       WHEN 0 THEN '' ELSE coalesce(s.key::text, '#' || g.site)       END AS site,
       g.country, g.device, g.tier,
       CASE g.filtered WHEN true THEN 'filtered' WHEN false THEN 'counted' END AS filtered,
       g.requests, g.fills, g.impressions, g.viewable, g.clicks, g.conversions, g.value_micros,
       g.spend_nanos, g.users
  FROM (SELECT level, hour, day, week, month, advertiser, campaign, creative, zone, site,
               country, device, tier, filtered,
               sum(requests)::bigint    AS requests,
               sum(fills)::bigint       AS fills,
               sum(impressions)::bigint AS impressions,
               sum(viewable)::bigint    AS viewable,
               sum(clicks)::bigint      AS clicks,
               sum(conversions)::bigint AS conversions,
               sum(value_micros)        AS value_micros,
               sum(spend_nanos)         AS spend_nanos,
               sum(users)::bigint       AS users
          FROM ({parts}) AS parts
         GROUP BY level, hour, day, week, month, advertiser, campaign, creative, zone, site,
                  country, device, tier, filtered) AS g
  LEFT JOIN advertiser AS a ON a.id = g.advertiser
  LEFT JOIN campaign   AS c ON c.id = g.campaign
  LEFT JOIN creative   AS k ON k.id = g.creative
  LEFT JOIN zone       AS z ON z.id = g.zone
  LEFT JOIN site       AS s ON s.id = g.site
 LIMIT %(at_most)s
