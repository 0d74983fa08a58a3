-- The line of a decision, by its id; the id tells when it was made, so only a few minutes are looked at.
SELECT line.time, line.params -> 'decision'
  FROM request_log AS line
 WHERE line.time BETWEEN to_timestamp(%(at_s)s) - interval '2 minutes'
                     AND to_timestamp(%(at_s)s) + interval '2 minutes'
   AND line.endpoint = 'decision'
   AND line.id = %(id)s::uuid
