-- The keys of tracking tokens without their secrets, for people.
SELECT id, signs, created_at, retired_at, secret IS NULL AS is_retired FROM token_keys()
