-- A segment that is done leaves its ledger row for a day, with the position at its end.
--
-- Until now the row went at once, so that a batch which was under way for long on a connection that was given up
-- found none and inserted nothing. But the statement that makes rows may be under way for long, too: coming behind
-- the end of the segment it made the row again, at 0, and a batch that came behind that counted a second time. A
-- row that is still there leaves nothing to make, and no batch begins where it stands.
--
-- No statement is a day late: PostgreSQL and the kernels give up on a silent peer after minutes.
ALTER TABLE journal_segment ADD COLUMN closed timestamptz;

COMMENT ON COLUMN journal_segment.closed IS 'Since when all of it is in the tables and its file is gone.';

-- Those that are not done: few, whatever is left of a busy day.
CREATE INDEX journal_segment_open ON journal_segment (name) WHERE closed IS NULL;

-- As before (006_budgets), but what is done keeps no lease.
CREATE OR REPLACE FUNCTION lease_settle(
    its_journal text, streams text[], gone_after interval DEFAULT '1 hour', at timestamptz DEFAULT now())
    RETURNS TABLE (holder text, unused bigint)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    dead text[];
BEGIN
    WITH gone AS (
        DELETE FROM lease_holder AS h
         WHERE h.seen_at < at - interval '5 seconds'
           AND (h.journal = its_journal AND h.holder <> ALL (streams)
                AND NOT EXISTS (SELECT FROM journal_segment AS s
                                 WHERE s.closed IS NULL AND starts_with(s.name, h.holder || '-'))
                OR h.seen_at < at - gone_after - make_interval(secs => greatest(0, h.window_s - 900)))
        RETURNING h.holder
    )
    SELECT array_agg(holder) INTO dead FROM gone;
    IF dead IS NULL THEN
        RETURN;
    END IF;
    PERFORM FROM lease AS l WHERE l.holder = ANY (dead) ORDER BY l.campaign_id, l.day, l.holder FOR UPDATE;
    RETURN QUERY
    WITH returned AS (
        DELETE FROM lease AS l WHERE l.holder = ANY (dead)
        RETURNING l.holder, greatest(0, l.granted - l.used) AS unused
    )
    SELECT d, coalesce(sum(r.unused), 0)::bigint
      FROM unnest(dead) AS d LEFT JOIN returned AS r ON r.holder = d
     GROUP BY d;
END
$$;
