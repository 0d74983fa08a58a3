-- Correct the events. What somebody else has changed meanwhile is left, and will be found the next time.
WITH done AS (
    UPDATE ad_event AS e
       SET filtered = r.filtered
      FROM restate_event AS r
     WHERE (e.decision, e.kind, e.decided_at) = (r.decision, r.kind, r.decided_at)
       AND e.filtered IS NOT DISTINCT FROM r.old
    RETURNING e.decision, e.kind
)
DELETE FROM restate_event AS r
 WHERE NOT EXISTS (SELECT FROM done WHERE (done.decision, done.kind) = (r.decision, r.kind))
