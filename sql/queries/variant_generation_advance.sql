-- Count a chunk, in the transaction that inserts it.
UPDATE variant_generation SET done = %(done)s
