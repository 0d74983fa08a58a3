-- A worker has shipped everything and ends: nobody will ask for its position again.
DELETE FROM journal_segment WHERE name = %(segment)s;
