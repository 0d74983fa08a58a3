-- Where the ledger stands for these segments; those without a row are not among the answers.
SELECT name, shipped_bytes FROM journal_segment WHERE name = ANY(%(segments)s);
