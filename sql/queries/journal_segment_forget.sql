-- Ledger rows that nobody will ask for any more: the machine with their files is gone, or the file was set
-- aside. Forgotten late, since a file without a row counts as not shipped at all; what is older than the
-- oldest row can be is never shipped without one.
DELETE FROM journal_segment WHERE updated < now() - %(forgotten_after)s RETURNING name;
