-- What kind of server this session has come to: a standby, or one that is told to take no writes?
-- A primary is fenced by default_transaction_read_only, for instance by a host whose disk is full.
SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean
