-- What became of decisions: events that count once, and the hourly rollup that is exact at every moment.
--
-- All requests stand in request_log, decisions and beacons included. These tables are derived from the same
-- lines in the same transaction (`ad_ingest`): what counts, once, and its sums.
--
-- A decision's id is a version 7 uuid, so it tells when the decision was made. Everything that follows from
-- it (impression, viewable, click) is kept under the decision's day and summed under the decision's hour,
-- however late it comes: so a replayed beacon meets the first one in the same partition, and rates compare
-- what belongs together.

-- The kinds are 'impression', 'viewable', 'click'. Conversions have a table of their own: they are told
-- apart by the advertiser's order, not by a decision.
CREATE TABLE ad_event (
    decided_at   timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    decision     uuid        NOT NULL,
    uid          uuid,
    zone_id      integer     NOT NULL,
    campaign_id  integer     NOT NULL,
    creative_id  integer     NOT NULL,
    price_micros bigint      NOT NULL,
    kind         text        NOT NULL CHECK (kind IN ('impression', 'viewable', 'click')),
    -- '' where it is not known.
    country      text        NOT NULL,
    device       text        NOT NULL,
    -- Why it is not billed; null: it is.
    filtered     text,
    PRIMARY KEY (decision, kind, decided_at)
) PARTITION BY RANGE (decided_at);

CREATE TABLE conversion (
    advertiser_id integer     NOT NULL,
    order_id      text        NOT NULL CHECK (octet_length(order_id) BETWEEN 1 AND 200),
    received_at   timestamptz NOT NULL,
    value_micros  bigint      NOT NULL DEFAULT 0,
    uid           uuid,
    -- What it is attributed to; null: to nothing we know of.
    decision      uuid,
    attributed_to text        CHECK (attributed_to IN ('click', 'view')),
    zone_id       integer     NOT NULL DEFAULT 0,
    campaign_id   integer     NOT NULL DEFAULT 0,
    creative_id   integer     NOT NULL DEFAULT 0,
    filtered      text,
    PRIMARY KEY (advertiser_id, order_id)
);

-- Sums by hour (UTC). Money is in billionths of the currency: an impression of a campaign that pays
-- price_micros for a thousand costs exactly price_micros of these.
CREATE TABLE rollup_hour (
    hour         timestamptz NOT NULL,
    zone_id      integer     NOT NULL,
    -- 0: no ad.
    campaign_id  integer     NOT NULL,
    creative_id  integer     NOT NULL,
    country      text        NOT NULL,
    device       text        NOT NULL,
    -- Bots and the like: kept, never billed.
    filtered     boolean     NOT NULL,
    requests     bigint      NOT NULL DEFAULT 0,
    fills        bigint      NOT NULL DEFAULT 0,
    impressions  bigint      NOT NULL DEFAULT 0,
    viewable     bigint      NOT NULL DEFAULT 0,
    clicks       bigint      NOT NULL DEFAULT 0,
    conversions  bigint      NOT NULL DEFAULT 0,
    value_micros bigint      NOT NULL DEFAULT 0,
    spend_nanos  bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, campaign_id, zone_id, creative_id, country, device, filtered)
) WITH (fillfactor = 70);

-- What is known of users, all of it deleted by `prefork-ads user forget`.
CREATE TABLE user_segment (
    uid        uuid    NOT NULL,
    segment_id integer NOT NULL REFERENCES segment,
    PRIMARY KEY (uid, segment_id)
);
