-- The ids of things with these keys; null: of all, up to a number that somebody may have mistyped one of.
SELECT key::text, id
  FROM {relation}
 WHERE %(keys)s::text[] IS NULL OR key = ANY (%(keys)s::text[])
 LIMIT 10000
