-- What reports add up where the hours of the rollup are not those of the report: the same figures from single
-- decisions, events and conversions. It counts as `rollup_from_raw` does; a test compares them.
SELECT date_trunc('hour', t.at)  AS hour,
       date_trunc('day', t.at)   AS day,
       date_trunc('week', t.at)  AS week,
       date_trunc('month', t.at) AS month,
       coalesce(c.advertiser_id, 0) AS advertiser,
       t.campaign_id             AS campaign,
       t.creative_id             AS creative,
       t.zone_id                 AS zone,
       coalesce(z.site_id, 0)    AS site,
       t.country,
       t.device,
       coalesce(c.tier, '')      AS tier,
       t.filtered,
       t.requests,
       CASE WHEN t.campaign_id > 0 THEN t.requests ELSE 0 END AS fills,
       (t.kind = 'impression')::integer AS impressions,
       (t.kind = 'viewable')::integer   AS viewable,
       (t.kind = 'click')::integer      AS clicks,
       (t.kind = 'conversion')::integer AS conversions,
       t.value_micros,
       CASE WHEN t.filtered THEN 0 ELSE ad_spend_nanos(t.kind, t.price_model, t.price_micros) END AS spend_nanos
  FROM (
    SELECT uuid_time(l.id) AS at, (l.params #>> '{decision,zone}')::integer AS zone_id,
           coalesce((l.params #>> '{decision,campaign}')::integer, 0) AS campaign_id,
           coalesce((l.params #>> '{decision,creative}')::integer, 0) AS creative_id,
           coalesce(l.params #>> '{decision,country}', '') AS country,
           coalesce(l.params #>> '{decision,device}', '') AS device,
           l.params #>> '{decision,filtered}' IS NOT NULL AS filtered,
           1 AS requests, l.endpoint AS kind, '' AS price_model, 0::bigint AS price_micros,
           0::bigint AS value_micros
      FROM request_log AS l
     WHERE l.endpoint = 'decision'
       AND l.time >= %(from)s - interval '1 day' AND l.time < %(to)s + interval '1 day'
       AND uuid_time(l.id) >= %(from)s AND uuid_time(l.id) < %(to)s
    UNION ALL
    SELECT e.decided_at, e.zone_id, e.campaign_id, e.creative_id, e.country, e.device, e.filtered IS NOT NULL,
           0, e.kind, e.price_model, e.price_micros, 0
      FROM ad_event AS e
     WHERE e.decided_at >= %(from)s AND e.decided_at < %(to)s
    UNION ALL
    SELECT v.decided_at, v.zone_id, v.campaign_id, v.creative_id, v.country, v.device, v.filtered IS NOT NULL,
           0, 'conversion', v.price_model, v.price_micros, v.value_micros
      FROM conversion AS v
     WHERE v.decided_at >= %(from)s AND v.decided_at < %(to)s
  ) AS t
  LEFT JOIN campaign AS c ON c.id = t.campaign_id
  LEFT JOIN zone     AS z ON z.id = t.zone_id
