-- What somebody who has the catalog of a version lacks of the newest: the changes since, or all of it.
--
-- One statement, so all of it is as of one moment. It is all of it for who has none (-1), whose version is not
-- one of this history (see catalog_state), or who lacks more than so many rows. What is answered comes in pieces
-- of some 64 KiB, each a JSON array of [relation, id, row]; the row of what was deleted is null.
WITH news AS MATERIALIZED (
    SELECT state.version,
           (SELECT extract(epoch FROM change.at)::text
              FROM catalog_change AS change
             WHERE change.version = state.version
             LIMIT 1) AS mark,
           %(after)s NOT BETWEEN 0 AND state.version
           OR %(mark)s::text IS DISTINCT FROM (
               SELECT extract(epoch FROM change.at)::text
                 FROM catalog_change AS change
                WHERE change.version = %(after)s
                LIMIT 1)
           OR (SELECT count(*)
                 FROM (SELECT FROM catalog_change AS change
                        WHERE change.version > %(after)s
                        LIMIT %(most)s + 1) AS lacking) > %(most)s AS whole
      FROM catalog_state AS state
)
SELECT news.version, news.mark, news.whole, piece.content
  FROM news
  LEFT JOIN LATERAL (
    SELECT '[' || string_agg(part.content, ',') || ']' AS content
      FROM (SELECT entry.content,
                   sum(octet_length(entry.content)) OVER (ROWS UNBOUNDED PRECEDING) / 65536 AS number
              FROM (SELECT '["' || latest.relation || '",' || latest.id || ','
                           || coalesce(latest.content::text, 'null') || ']' AS content
                      FROM (SELECT at.relation, at.id, at.content
                              FROM catalog_at(news.version) AS at
                             WHERE news.whole
                             UNION ALL
                            SELECT * FROM (
                                SELECT DISTINCT ON (change.relation, change.id)
                                       change.relation, change.id, change.content
                                  FROM catalog_change AS change
                                 WHERE change.version > %(after)s AND NOT news.whole
                                 ORDER BY change.relation, change.id, change.version DESC
                            ) AS changed) AS latest) AS entry) AS part
     GROUP BY part.number) AS piece ON true;
