-- Of events that would be billed now, those are not that are beyond their campaigns' goals: by the same guard as when
-- they come in. Those stay as they were in the sums, filtered for another reason. Tells how many.
WITH judged AS MATERIALIZED (
    SELECT g.decision, g.kind, g.filtered
      FROM unnest(ad_event_guard((
               SELECT array_agg(e)
                 FROM restate_event AS r
                 JOIN ad_event AS e ON (e.decision, e.kind, e.decided_at) = (r.decision, r.kind, r.decided_at)
                WHERE r.filtered IS NULL))) AS g
     WHERE g.filtered IS NOT NULL
), beyond AS (
    DELETE FROM restate_event AS r
     USING judged AS j
     WHERE (r.decision, r.kind) = (j.decision, j.kind)
    RETURNING r.decision
)
SELECT count(*) FROM beyond
