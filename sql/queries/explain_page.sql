-- The decisions for the other places of a page: a worker gives all of them one time, and ids in their order.
SELECT replace(line.id::text, '-', ''), line.params -> 'decision'
  FROM request_log AS line
 WHERE line.time = %(time)s
   AND line.endpoint = 'decision'
   AND line.params -> 'decision' -> 'places' = to_jsonb(%(places)s::integer)
   AND line.params -> 'decision' ->> 'state' IS NOT DISTINCT FROM %(state)s::text
   AND line.params -> 'decision' ->> 'version' = %(version)s::text
 ORDER BY line.id
