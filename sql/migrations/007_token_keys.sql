-- The keys that tokens in tracking URLs are signed with. A token names its key, so that keys can be
-- changed while older tokens are still about.
CREATE TABLE token_key (
    id         smallint    PRIMARY KEY CHECK (id BETWEEN 0 AND 255),
    secret     bytea       NOT NULL CHECK (octet_length(secret) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Tokens are signed with the newest key that has none of these; those of a retired key are taken until then.
    retired_at timestamptz
);

COMMENT ON TABLE token_key IS 'Keys of tracking tokens. Secret: a serving role reads it, nobody else.';
