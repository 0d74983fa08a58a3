-- Fill the stage with one batch.
COPY variant_stage FROM STDIN
