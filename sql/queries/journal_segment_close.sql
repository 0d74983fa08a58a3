-- These segments are in the table and their files are gone for good: nobody will ask for a position again.
-- A row that went before its file would let the file be shipped a second time.
DELETE FROM journal_segment WHERE name = ANY(%(segments)s);
