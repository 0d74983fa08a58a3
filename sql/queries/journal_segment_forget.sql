-- Ledger rows of workers that were killed: nobody asks for them any more. A living worker that has
-- logged nothing for a month loses its row too, and makes it again with its next batch.
DELETE FROM journal_segment WHERE updated < now() - interval '30 days' RETURNING name;
