-- Forget who events and conversions were of. They stay counted, but as nobody's. Tells how many of each.
WITH events AS (
    UPDATE ad_event SET uid = NULL WHERE uid = %(uid)s RETURNING decision
), conversions AS (
    UPDATE conversion SET uid = NULL WHERE uid = %(uid)s RETURNING order_id
)
SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM conversions)
