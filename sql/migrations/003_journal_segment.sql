-- The ledger: how much of each worker's stream of event lines is in request_log.
--
-- A worker's lines are one stream of bytes with a name nobody else ever uses. The statement that
-- inserts a batch of them moves `shipped_bytes` from the batch's first byte to its last, in the same
-- transaction. A worker that does not know whether its batch was committed sends it again; the position
-- decides whether it counts. That is the whole of "exactly once" on the database's side.
--
-- One row per living worker, updated several times a second: fillfactor 50 keeps the updates HOT
-- (no index entry, dead versions pruned in the page), and autovacuum stays on.
CREATE TABLE journal_segment (
    name          text        PRIMARY KEY,
    shipped_bytes bigint      NOT NULL CHECK (shipped_bytes >= 0),
    -- For people and for the keeper, who forgets rows that have not moved for weeks.
    updated       timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

COMMENT ON TABLE journal_segment IS 'How many bytes of each worker''s event stream are in request_log.';

-- Lines that could not become rows. Always a bug of ours; kept so that nothing is lost by it.
CREATE TABLE request_log_rejected (
    time   timestamptz NOT NULL DEFAULT now(),
    line   text        NOT NULL,
    reason text        NOT NULL
);

COMMENT ON TABLE request_log_rejected IS 'Event lines that PostgreSQL refused, with the reason.';
