-- The keys of the segments that a user is in.
SELECT s.key::text
  FROM user_segment AS u
  JOIN segment      AS s ON s.id = u.segment_id
 WHERE u.uid = %(uid)s
 ORDER BY s.key
