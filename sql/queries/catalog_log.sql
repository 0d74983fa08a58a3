-- The last versions of the catalog: when, by whom, by what means, and how many things of each kind were
-- added, changed and archived.
WITH lately AS (
    SELECT DISTINCT version FROM catalog_change ORDER BY version DESC LIMIT %(last)s
), changed AS (
    SELECT c.version, c.at, c.by, c.note, c.relation,
           CASE WHEN before.content IS NULL THEN 'added'
                WHEN c.content IS NULL THEN 'deleted'
                WHEN c.content ->> 'status' = 'archived' AND before.content ->> 'status' <> 'archived' THEN 'archived'
                ELSE 'changed' END AS what
      FROM lately
      JOIN catalog_change AS c USING (version)
      LEFT JOIN LATERAL (
               SELECT b.content FROM catalog_change AS b
                WHERE (b.relation, b.id) = (c.relation, c.id) AND b.version < c.version
                ORDER BY b.version DESC LIMIT 1) AS before ON true
)
SELECT version, at, by, note, relation, what, count(*)
  FROM changed
 GROUP BY version, at, by, note, relation, what
 ORDER BY version DESC, relation, what
