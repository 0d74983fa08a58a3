-- Take a user's id out of lines that could not become rows.
UPDATE request_log_rejected
   SET line = regexp_replace(line, %(pattern)s, %(instead)s, 'gi')
 WHERE line ~* %(pattern)s
