-- Zones as a JSON list of them says, new ones and those that are there.
INSERT INTO zone (key, site_id, name, status, sizes, formats, floor_micros, fallback)
SELECT r.key, site.id, r.name, r.status, r.sizes, r.formats, r.floor_micros, r.fallback
  FROM jsonb_to_recordset(%(items)s::jsonb)
       AS r (key text, site text, name text, status text, sizes text[], formats text[], floor_micros
             bigint, fallback text)
  JOIN site ON site.key = r.site
ON CONFLICT (key) DO UPDATE
   SET name = excluded.name,
       status = excluded.status,
       sizes = excluded.sizes,
       formats = excluded.formats,
       floor_micros = excluded.floor_micros,
       fallback = excluded.fallback,
       site_id = excluded.site_id
