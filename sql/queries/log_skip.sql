-- Move the ledger past lines of a damaged segment that are no events; nothing is inserted. The file is
-- kept aside for somebody to look at.
UPDATE journal_segment SET shipped_bytes = %(after)s, updated = now()
 WHERE name = %(segment)s AND shipped_bytes = %(before)s;
SELECT shipped_bytes FROM journal_segment WHERE name = %(segment)s;
