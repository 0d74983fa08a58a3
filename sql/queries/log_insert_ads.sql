-- As log_insert, for lines that say something about ads: take that too, or none of it all. Without the
-- ledger's move the function is not called.
WITH moved AS (
    UPDATE journal_segment SET shipped_bytes = %(after)s, updated = now()
     WHERE name = %(segment)s AND shipped_bytes = %(before)s
    RETURNING name
), logged AS (
    INSERT INTO request_log (time, id, endpoint, params, user_agent, referer, address, language)
    SELECT f[1]::timestamptz, f[2]::uuid, f[3], replace(f[4], '\\', '\')::jsonb,
           journal_unescape(f[5]), journal_unescape(f[6]), f[7]::inet, journal_unescape(f[8])
      FROM string_to_table(%(lines)s, E'\n') AS line,
           string_to_array(line, E'\t', '\N') AS f
     WHERE EXISTS (SELECT FROM moved)
)
SELECT ad_ingest(%(holder)s, %(decisions)s, %(leased)s, %(seen)s, %(events)s, %(conversions)s,
                 %(click_window)s, %(view_window)s)
  FROM moved;
SELECT shipped_bytes FROM journal_segment WHERE name = %(segment)s;
