-- Sites as a JSON list of them says, new ones and those that are there.
INSERT INTO site (key, name, domain, status)
SELECT r.key, r.name, r.domain, r.status
  FROM jsonb_to_recordset(%(items)s::jsonb)
       AS r (key text, name text, domain text, status text)
ON CONFLICT (key) DO UPDATE
   SET name = excluded.name,
       domain = excluded.domain,
       status = excluded.status
