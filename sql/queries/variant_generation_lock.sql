-- How many rows have been generated; held until the chunk commits, so that two runs take turns.
SELECT done FROM variant_generation FOR UPDATE
