-- Ledger rows that nobody will ask for any more: the segment is done, and no statement about it can be under
-- way; or the machine with its file is gone, or the file was set aside. These are forgotten late, since a file
-- without a row counts as not shipped at all; what is older than the oldest row can be is never shipped without one.
DELETE FROM journal_segment
 WHERE closed < now() - %(closed_for)s OR updated < now() - %(forgotten_after)s
RETURNING name;
