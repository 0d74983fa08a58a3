-- Move the stage into the table, in the order of its index; who is in a segment already stays in it. The
-- sum is of those who were not.
WITH new AS (
    INSERT INTO user_segment (uid, segment_id)
    SELECT DISTINCT uid, segment_id FROM user_segment_stage ORDER BY uid, segment_id
    ON CONFLICT DO NOTHING
    RETURNING uid
)
SELECT count(*) FROM new
