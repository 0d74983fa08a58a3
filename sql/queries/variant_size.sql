-- How large the table is, without reading it: its pages now, and the rows a page had at the last
-- VACUUM or ANALYZE (-1 before the first).
SELECT pg_relation_size('ad_variant') / current_setting('block_size')::bigint AS pages,
       reltuples / greatest(relpages, 1)                                     AS rows_per_page
  FROM pg_class
 WHERE oid = 'ad_variant'::regclass
