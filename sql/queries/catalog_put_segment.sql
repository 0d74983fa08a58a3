-- Segments as a JSON list of them says, new ones and those that are there.
INSERT INTO segment (key, name, status)
SELECT r.key, r.name, r.status
  FROM jsonb_to_recordset(%(items)s::jsonb)
       AS r (key text, name text, status text)
ON CONFLICT (key) DO UPDATE
   SET name = excluded.name,
       status = excluded.status
