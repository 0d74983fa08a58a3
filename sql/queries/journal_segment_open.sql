-- Before the first statement that ships a segment on a connection: make its ledger row unless it is
-- there, and tell where the ledger stands. Whoever ships from a file makes it with 0.
INSERT INTO journal_segment (name, shipped_bytes) VALUES (%(segment)s, %(shipped)s)
ON CONFLICT (name) DO NOTHING;
SELECT shipped_bytes FROM journal_segment WHERE name = %(segment)s;
