-- These segments are in the table and their files are gone for good. Their rows stay for a day: what is still
-- under way on a connection that was given up is to find them. A row that is closed before its file is gone
-- would be forgotten while the file may come back, and be shipped a second time.
UPDATE journal_segment SET closed = now() WHERE name = ANY(%(segments)s);
