-- Restatements take turns.
SELECT pg_advisory_xact_lock(%(namespace)s, %(lock)s)
