-- Add a key, and have those that are there retired when the last of their tokens is of no use any more. In one
-- statement, and the old ones first: the new one must not be among them.
WITH old AS (
    UPDATE token_key
       SET retired_at = least(retired_at, now() + make_interval(secs => %(keep_s)s))
     WHERE retired_at IS NULL OR retired_at > now()
)
SELECT token_key_add()
