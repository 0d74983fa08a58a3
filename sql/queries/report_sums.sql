-- The part of a report that is added up. Aggregates of an empty table are null, and the set () has a row of it.
SELECT {level} AS level, {dimensions},
       coalesce(sum(requests), 0)     AS requests,
       coalesce(sum(fills), 0)        AS fills,
       coalesce(sum(impressions), 0)  AS impressions,
       coalesce(sum(viewable), 0)     AS viewable,
       coalesce(sum(clicks), 0)       AS clicks,
       coalesce(sum(conversions), 0)  AS conversions,
       coalesce(sum(value_micros), 0) AS value_micros,
       coalesce(sum(spend_nanos), 0)  AS spend_nanos,
       0                              AS users
  FROM ({source}) AS source
 WHERE {filters}
 GROUP BY {sets}
