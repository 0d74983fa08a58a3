-- Fill the stage with one batch.
COPY user_segment_stage FROM STDIN
