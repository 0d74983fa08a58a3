-- Wait for our turn to change the catalog, but not for ever, say by what means, and learn the version that
-- is in force.
SELECT set_config('lock_timeout', %(wait_ms)s::text, true), set_config('prefork_ads.note', %(note)s, true),
       catalog_lock()
