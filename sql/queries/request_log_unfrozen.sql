-- Which closed days are still to be vacuumed, oldest first. The figures are the catalog's, written by
-- VACUUM, so they are right after a crash too: before the first VACUUM reltuples is -1, after a
-- complete one every page is all-visible. A day that could not be completed, because somebody still
-- looked at it, is tried again after an hour.
SELECT p.schema, p.name
  FROM request_log_partition AS p
  LEFT JOIN pg_stat_all_tables AS s ON s.relid = p.partition
 WHERE p.day < %(open_from)s
   AND (p.reltuples < 0 OR p.relallvisible < p.relpages)
   AND coalesce(s.last_vacuum, '-infinity') < now() - interval '1 hour'
   AND pg_has_role(p.owner, 'USAGE')
 ORDER BY p.day
 LIMIT %(at_most)s
