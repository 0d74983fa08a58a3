-- Where an import's lines land before they are merged. Temporary: not logged, gone with the session.
CREATE TEMPORARY TABLE user_segment_stage (
    uid        uuid    NOT NULL,
    segment_id integer NOT NULL
)
