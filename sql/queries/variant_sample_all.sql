-- Random ids of a small table: read it all and keep the n of the smallest random numbers.
SELECT id FROM ad_variant ORDER BY random() LIMIT %(wanted)s
