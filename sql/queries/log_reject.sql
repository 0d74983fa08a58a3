-- Keep an event line that cannot become a row, and move the ledger past it, or do neither.
WITH moved AS (
    UPDATE journal_segment SET shipped_bytes = %(after)s, updated = now()
     WHERE name = %(segment)s AND shipped_bytes = %(before)s
    RETURNING name
)
INSERT INTO request_log_rejected (line, reason)
SELECT %(line)s, %(reason)s FROM moved;
SELECT shipped_bytes FROM journal_segment WHERE name = %(segment)s;
