-- Become the keeper of this database, or learn that another is. A session lock: it ends with the
-- connection. Taking what one has already counts up, and only the end of the session matters.
SELECT pg_try_advisory_lock(%s, %s)
