-- Decisions of a day that the list judges otherwise than their lines say. Only whether they are a program's is
-- judged anew, and not by which name.
INSERT INTO restate_decision (id, old, filtered)
SELECT l.id, l.params #>> '{decision,filtered}', b.reason
  FROM request_log AS l
  LEFT JOIN restate_bot AS b ON b.user_agent = l.user_agent
 WHERE l.time >= %(from)s AND l.time < %(to)s AND l.endpoint = 'decision'
   AND (b.reason IS NULL) = coalesce(l.params #>> '{decision,filtered}' LIKE 'bot: %%', false)
   AND coalesce(l.params #>> '{decision,filtered}' LIKE 'bot: %%', true)
ON CONFLICT DO NOTHING
