-- Events that would be judged otherwise if the list of today had been there: those whose lines are of this day,
-- by their own user agents, and those of decisions that change, whenever they came.
--
-- As when an event comes in: a program's; else of a decision that is filtered; else what the rate of its
-- address or its campaign's goal had to say, which stays. Of an event that came twice the line that was
-- counted is judged, by the time at which it was received. Decisions of the day and of the one before are looked at:
-- nearly all events follow theirs within the hour, and a late click keeps what its token said of its decision.
WITH doubtful AS MATERIALIZED (
    -- A line is there twice when a file of the journal was brought back that had been shipped.
    SELECT DISTINCT ON (l.id) l.id, coalesce(d.filtered, CASE WHEN d.id IS NULL THEN l.params #>> '{decision,filtered}' END) AS filtered
      FROM request_log AS l
      LEFT JOIN restate_decision AS d ON d.id = l.id
     WHERE l.time >= %(from)s - interval '1 day' AND l.time < %(to)s AND l.endpoint = 'decision'
       AND (l.params #>> '{decision,filtered}' IS NOT NULL OR d.id IS NOT NULL)
     ORDER BY l.id
), lines AS MATERIALIZED (
    SELECT DISTINCT ON (decision, kind, received_at) decision, kind, received_at, user_agent
      FROM (SELECT (l.params #>> '{event,decision}')::uuid AS decision, l.endpoint AS kind, l.time AS received_at,
                   l.user_agent, l.id
              FROM request_log AS l
             WHERE l.time >= %(from)s AND l.time < %(to)s
               AND l.endpoint IN ('impression', 'viewable', 'click')) AS said
     ORDER BY decision, kind, received_at, id
), judged AS (
    SELECT e.decision, e.kind, e.decided_at, e.filtered AS old,
           CASE WHEN b.reason IS NOT NULL THEN b.reason
                WHEN f.filtered IS NOT NULL THEN 'decision'
                WHEN e.filtered LIKE 'bot: %%' THEN NULL
                WHEN e.filtered = 'decision' AND f.id IS NOT NULL THEN NULL
                ELSE e.filtered END AS filtered
      FROM lines AS l
      JOIN ad_event AS e ON (e.decision, e.kind, e.decided_at) = (l.decision, l.kind, uuid_time(l.decision))
                        AND e.received_at = l.received_at
      LEFT JOIN restate_bot AS b ON b.user_agent = l.user_agent
      LEFT JOIN doubtful AS f ON f.id = l.decision
    UNION ALL
    SELECT e.decision, e.kind, e.decided_at, e.filtered,
           CASE WHEN d.filtered IS NOT NULL THEN 'decision' END
      FROM restate_decision AS d
      JOIN ad_event AS e ON e.decision = d.id AND e.decided_at = uuid_time(d.id)
     WHERE (e.filtered = 'decision' OR e.filtered IS NULL)
       AND NOT EXISTS (SELECT FROM lines AS l
                        WHERE (l.decision, l.kind, l.received_at) = (e.decision, e.kind, e.received_at))
)
INSERT INTO restate_event (decision, kind, decided_at, old, filtered)
SELECT decision, kind, decided_at, old, filtered
  FROM judged
 WHERE (old IS NULL) <> (filtered IS NULL)
