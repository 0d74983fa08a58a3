-- Once per connection: the lookup of a batch of users, what segments they are in and what they have seen.
--
-- What was seen is one text with eight words for each campaign ('c') and advertiser ('a') with a cap, as `ads.caps`
-- reads it: kind, id, start of the hour in seconds since 1970, day in days since then, their counts, the count of
-- all, and the latest decisions that are counted.
PREPARE people (uuid[]) AS
SELECT u.uid::text,
       (SELECT array_agg(s.segment_id) FROM user_segment AS s WHERE s.uid = u.uid),
       (SELECT string_agg(concat_ws(' ', f.kind, f.id, extract(epoch FROM f.hour)::bigint, f.day - date '1970-01-01',
                                   f.hour_count, f.day_count, f.count,
                                   replace(array_to_string(f.latest, ','), '-', '')), ' ')
          FROM user_frequency AS f WHERE f.uid = u.uid)
  FROM unnest($1) AS u (uid);
