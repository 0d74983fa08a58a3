-- Put a user into a segment. No row: already in it.
INSERT INTO user_segment (uid, segment_id) VALUES (%(uid)s, %(segment)s)
ON CONFLICT DO NOTHING
RETURNING segment_id
