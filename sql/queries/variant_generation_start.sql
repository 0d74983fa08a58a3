-- How many rows have been generated, as a run finds it. An empty table was emptied by somebody,
-- whatever the count says, so counting starts again; rows that were only partly deleted are not
-- noticed.
UPDATE variant_generation
   SET done = 0
 WHERE done > 0 AND NOT EXISTS (SELECT FROM ad_variant)
