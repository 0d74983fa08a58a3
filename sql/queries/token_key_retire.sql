-- Retire a key, at once or later. One that was retired stays so: who did it may have had a reason.
UPDATE token_key
   SET retired_at = now() + make_interval(secs => %(after_s)s)
 WHERE id = %(id)s AND (retired_at IS NULL OR retired_at > now())
RETURNING id
