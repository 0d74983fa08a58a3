-- Advertisers as a JSON list of them says, new ones and those that are there.
INSERT INTO advertiser (key, name, status, allow_repeat, cap_hour, cap_day, cap_flight)
SELECT r.key, r.name, r.status, r.allow_repeat, r.cap_hour, r.cap_day, r.cap_flight
  FROM jsonb_to_recordset(%(items)s::jsonb)
       AS r (key text, name text, status text, allow_repeat boolean, cap_hour integer, cap_day
             integer, cap_flight integer)
ON CONFLICT (key) DO UPDATE
   SET name = excluded.name,
       status = excluded.status,
       allow_repeat = excluded.allow_repeat,
       cap_hour = excluded.cap_hour,
       cap_day = excluded.cap_day,
       cap_flight = excluded.cap_flight
