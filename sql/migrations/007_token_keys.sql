-- The keys that tokens in tracking URLs are signed with. A token names its key, so that keys can be
-- changed while older tokens are still about.
--
-- Workers ask for the keys every few seconds. A new key therefore signs nothing for its first minute: by
-- then whoever may be handed one of its tokens knows it, too.
CREATE TABLE token_key (
    id         smallint    PRIMARY KEY CHECK (id BETWEEN 0 AND 255),
    secret     bytea       NOT NULL CHECK (octet_length(secret) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- From then on its tokens are refused. Null: nobody has said when.
    retired_at timestamptz
);

COMMENT ON TABLE token_key IS 'Keys of tracking tokens. Secret: read through token_keys(), by nobody else.';

-- Add a key and return its id: the one behind the newest, and 0 after 255. What is in its place by then must
-- have been retired.
--
-- The secret is a hash of three random uuids, which have 122 bits each from the system's generator: more than
-- the 256 bits that come out. gen_random_bytes would need an extension.
CREATE FUNCTION token_key_add() RETURNS smallint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
DECLARE
    added smallint;
BEGIN
    LOCK TABLE token_key IN SHARE ROW EXCLUSIVE MODE;
    SELECT coalesce((SELECT (id + 1) % 256 FROM token_key ORDER BY created_at DESC, id DESC LIMIT 1), 0)
      INTO added;
    DELETE FROM token_key WHERE id = added AND retired_at <= now();
    INSERT INTO token_key (id, secret, created_at)
    VALUES (added, sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                          || uuid_send(gen_random_uuid())), clock_timestamp());
    RETURN added;
END
$$;

-- What a worker is to know: which key signs, and which tokens are refused. The first to ask makes the first key.
--
-- The newest key that is a minute old signs, if it is not about to be retired and there is one. The secret of a
-- retired key is told to nobody: that it was there is enough to say why a token is refused.
CREATE FUNCTION token_keys()
    RETURNS TABLE (id smallint, secret bytea, signs boolean, created_at timestamptz, retired_at timestamptz)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM token_key AS k WHERE k.retired_at IS NULL OR k.retired_at > now()) THEN
        LOCK TABLE token_key IN SHARE ROW EXCLUSIVE MODE;
        -- Again, for somebody may have been first.
        IF NOT EXISTS (SELECT FROM token_key AS k WHERE k.retired_at IS NULL OR k.retired_at > now()) THEN
            PERFORM token_key_add();
        END IF;
    END IF;
    RETURN QUERY
    WITH key AS (
        SELECT k.*,
               k.created_at <= now() - interval '1 minute'            AS is_settled,
               k.retired_at IS NOT NULL AND k.retired_at <= now()     AS is_retired
          FROM token_key AS k
    ), signer AS (
        SELECT key.id
          FROM key
         WHERE NOT key.is_retired
         ORDER BY key.is_settled DESC,
                  key.is_settled AND key.retired_at IS NULL DESC,
                  CASE WHEN key.is_settled THEN key.created_at END DESC,
                  key.created_at, key.id
         LIMIT 1
    )
    SELECT key.id, CASE WHEN NOT key.is_retired THEN key.secret END, key.id = signer.id,
           key.created_at, key.retired_at
      FROM key, signer
     ORDER BY key.created_at, key.id;
END
$$;

COMMENT ON FUNCTION token_keys() IS 'The keys of tracking tokens; the first to ask makes the first key.';

-- They act with their owner's rights; docs/database.md shows what to grant to a serving role.
REVOKE EXECUTE ON FUNCTION token_key_add() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION token_keys() FROM PUBLIC;

COMMENT ON FUNCTION token_key_add() IS 'Makes a new signing key and tells its id.';
