-- A worker's writer (re)connects: make its ledger row unless it is there.
INSERT INTO journal_segment (name, shipped_bytes) VALUES (%(segment)s, %(shipped)s)
ON CONFLICT (name) DO NOTHING;
