-- Which catalog is the newest: its version, and the mark that tells it from one of another history.
--
-- A replica that took over may have lost the last versions and given their numbers anew; a backup or another
-- database has other versions altogether. The moment of a version's transaction, which all its changes have, tells them apart.
SELECT state.version,
       (SELECT extract(epoch FROM change.at)::text
          FROM catalog_change AS change
         WHERE change.version = state.version
         LIMIT 1)
  FROM catalog_state AS state;
