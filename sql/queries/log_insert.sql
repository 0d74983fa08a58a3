-- Insert a batch of event lines and move the ledger past them, or do neither.
--
-- The lines are in COPY text format: the rows are split here, in one pass, because one parameter costs
-- a fraction of one parameter per value. Parameters (JSON) know one escape only, the doubled backslash.
-- Without the ledger's move (another attempt has counted already) the join is empty and nothing is
-- inserted. The last statement tells the position to whoever asks.
WITH moved AS (
    UPDATE journal_segment SET shipped_bytes = %(after)s, updated = now()
     WHERE name = %(segment)s AND shipped_bytes = %(before)s
    RETURNING name
)
INSERT INTO request_log (time, id, endpoint, params, user_agent, referer, address, language)
SELECT f[1]::timestamptz, f[2]::uuid, f[3], replace(f[4], '\\', '\')::jsonb,
       journal_unescape(f[5]), journal_unescape(f[6]), f[7]::inet, journal_unescape(f[8])
  FROM string_to_table(%(lines)s, E'\n') AS line,
       string_to_array(line, E'\t', '\N') AS f
 WHERE EXISTS (SELECT FROM moved);
SELECT shipped_bytes FROM journal_segment WHERE name = %(segment)s;
