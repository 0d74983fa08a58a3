-- Forget what is kept of a user to serve by: segments, and how often what was shown. Tells how many of each.
WITH segments AS (
    DELETE FROM user_segment WHERE uid = %(uid)s RETURNING uid
), frequency AS (
    DELETE FROM user_frequency WHERE uid = %(uid)s RETURNING uid
)
SELECT (SELECT count(*) FROM segments), (SELECT count(*) FROM frequency)
