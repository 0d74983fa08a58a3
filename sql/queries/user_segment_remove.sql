-- Take a user out of a segment. No row: was not in it.
DELETE FROM user_segment WHERE uid = %(uid)s AND segment_id = %(segment)s
RETURNING segment_id
