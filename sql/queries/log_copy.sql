-- Move the ledger past a batch of event lines and take the lines, or do neither.
--
-- The lines follow as the COPY's data. Unless the first statement returns a row the client ends the COPY
-- with an error, which undoes both: another attempt has counted already, or the row is gone.
UPDATE journal_segment SET shipped_bytes = %(after)s, updated = now()
 WHERE name = %(segment)s AND shipped_bytes = %(before)s
RETURNING shipped_bytes;
COPY request_log (time, id, endpoint, params, user_agent, referer, address, language) FROM STDIN;
