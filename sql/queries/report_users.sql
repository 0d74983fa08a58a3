-- The part of a report that cannot be added up: different users who had an impression, at each level anew.
SELECT {level} AS level, {dimensions}, 0, 0, 0, 0, 0, 0, 0, 0, count(DISTINCT uid)
  FROM ({source}) AS source
 WHERE {filters}
 GROUP BY {sets}
