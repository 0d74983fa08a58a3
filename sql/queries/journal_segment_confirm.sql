-- Before what was only read of the ledger is believed: change these rows, so that there is something to commit.
--
-- A commit that waits for a synchronous standby is seen by nobody. But once PostgreSQL has crashed and recovered,
-- the backend that waited was terminated, or its wait was cancelled (then it succeeds, with a warning), it is seen
-- by everybody, and the standby still does not have it. This commit comes after it in the log, so it returns when
-- the standby has both.
UPDATE journal_segment SET updated = now() WHERE name = ANY(%(segments)s);
