-- As log_copy, for lines that say something about ads: take that too, or none of it all.
UPDATE journal_segment SET shipped_bytes = %(after)s, updated = now()
 WHERE name = %(segment)s AND shipped_bytes = %(before)s
RETURNING shipped_bytes;
COPY request_log (time, id, endpoint, params, user_agent, referer, address, language) FROM STDIN;
SELECT ad_ingest(%(holder)s, %(decisions)s, %(leased)s, %(seen)s, %(events)s, %(conversions)s,
                 %(click_window)s, %(view_window)s);
