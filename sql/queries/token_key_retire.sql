-- Retire a key, at once or later.
UPDATE token_key SET retired_at = now() + make_interval(secs => %(after_s)s) WHERE id = %(id)s RETURNING id
