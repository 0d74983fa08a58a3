-- All segments by key.
SELECT key::text, id FROM segment
