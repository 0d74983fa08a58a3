-- Make the generated rows numbered first to last. A row is a function of its number: stopping, resuming
-- or doing it on another machine gives the same rows with the same ids.
--
-- The id has the shape of a uuid version 7. Its 60 ordered bits (48 of milliseconds, from 2016-01-01
-- on, and 12 below the version) count rows, so ids grow with the number and the btree is only appended
-- to; the other 62 bits are a hash of the number. hashint8extended may be relied on across releases:
-- hash partitioning does. Two int8 values sent as binary and written as hex are the cheapest way to 16
-- bytes of our own choice.
--
-- generate_series in a select list streams its numbers, in FROM it first writes them all to disk.
-- OFFSET 0 keeps the planner from copying the hash into each of the expressions that use it.
INSERT INTO ad_variant
    (id, advertiser_id, campaign_id, width, height, title, image_url, click_url)
SELECT encode(
           int8send(((1451606400000 + (n >> 12)) << 16) | 28672 | (n & 4095)) ||
           int8send((hashint8extended(n, 0) & 4611686018427387903) | (-9223372036854775808)),
           'hex')::uuid,
       (1 + mod(campaign, 5000))::integer,
       campaign,
       ('{300,728,160,320,970,300,336,468}'::smallint[])[1 + (h & 7)],
       ('{250,90,600,50,250,600,280,60}'::smallint[])[1 + (h & 7)],
       ('{Summer sale,New season,Free delivery,Last chance,Only today,Members first,Two for one,Back in stock}'::text[])[1 + ((h >> 3) & 7)]
           || ': ' ||
       ('{running shoes,garden chairs,city breaks,headphones,coffee,desk lamps,rain jackets,bicycles}'::text[])[1 + ((h >> 6) & 7)],
       'https://cdn.example/creatives/' || n || '.webp',
       'https://shop.example/campaigns/' || campaign || '?variant=' || n
  FROM (SELECT n, h, (1 + mod(h, 100000))::integer AS campaign
          FROM (SELECT n, hashint8extended(n, 1) & 2147483647 AS h
                  FROM (SELECT generate_series(%(first)s::bigint, %(last)s::bigint) AS n) AS numbers
                OFFSET 0) AS hashed
        OFFSET 0) AS shared
