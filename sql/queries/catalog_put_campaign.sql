-- Campaigns as a JSON list of them says, new ones and those that are there.
INSERT INTO campaign (key, advertiser_id, name, status, tier, weight, starts_at, ends_at, time_zone,
                      goal_kind, goal_total, goal_daily, pacing, price_model, price_micros,
                      cap_hour, cap_day, cap_flight, roadblock, targeting)
SELECT r.key, advertiser.id, r.name, r.status, r.tier, r.weight, r.starts_at, r.ends_at,
       r.time_zone, r.goal_kind, r.goal_total, r.goal_daily, r.pacing, r.price_model,
       r.price_micros, r.cap_hour, r.cap_day, r.cap_flight, r.roadblock, r.targeting
  FROM jsonb_to_recordset(%(items)s::jsonb)
       AS r (key text, advertiser text, name text, status text, tier text, weight integer, starts_at
             timestamptz, ends_at timestamptz, time_zone text, goal_kind text, goal_total bigint,
             goal_daily bigint, pacing text, price_model text, price_micros bigint, cap_hour
             integer, cap_day integer, cap_flight integer, roadblock boolean, targeting jsonb)
  JOIN advertiser ON advertiser.key = r.advertiser
ON CONFLICT (key) DO UPDATE
   SET name = excluded.name,
       status = excluded.status,
       tier = excluded.tier,
       weight = excluded.weight,
       starts_at = excluded.starts_at,
       ends_at = excluded.ends_at,
       time_zone = excluded.time_zone,
       goal_kind = excluded.goal_kind,
       goal_total = excluded.goal_total,
       goal_daily = excluded.goal_daily,
       pacing = excluded.pacing,
       price_model = excluded.price_model,
       price_micros = excluded.price_micros,
       cap_hour = excluded.cap_hour,
       cap_day = excluded.cap_day,
       cap_flight = excluded.cap_flight,
       roadblock = excluded.roadblock,
       targeting = excluded.targeting,
       advertiser_id = excluded.advertiser_id
