-- The keys of tracking tokens, for workers; the first to ask makes the first key.
SELECT id, secret, signs FROM token_keys()
