-- Budgets: what campaigns have had, and what workers hold of what is left.
--
-- A campaign with a goal may only be served by a worker that holds a share of what is left, its lease. A lease
-- is granted in advance, so no number of workers together can serve more than there is; what a worker has used
-- is counted when its decisions arrive here, and what a dead worker has not used comes back when its last
-- event line has arrived.

-- What a campaign has had in all, and on each of its own days (in its time zone). `impressions` and `clicks`
-- are those that are billed.
CREATE TABLE delivery_day (
    campaign_id integer NOT NULL,
    day         date    NOT NULL,
    decisions   bigint  NOT NULL DEFAULT 0,
    impressions bigint  NOT NULL DEFAULT 0,
    clicks      bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (campaign_id, day)
) WITH (fillfactor = 70);

-- The same by the minute in which the decision was made, for decisions that may still become impressions.
-- Minutes are deleted when nothing can come of them any more.
CREATE TABLE delivery_minute (
    campaign_id integer     NOT NULL,
    minute      timestamptz NOT NULL,
    day         date        NOT NULL,
    decisions   integer     NOT NULL DEFAULT 0,
    impressions integer     NOT NULL DEFAULT 0,
    PRIMARY KEY (campaign_id, minute, day)
) WITH (fillfactor = 70);

-- What a worker may still serve: granted - used. `holder` is the name of its event stream.
CREATE TABLE lease (
    holder      text        NOT NULL,
    campaign_id integer     NOT NULL,
    day         date        NOT NULL,
    granted     bigint      NOT NULL DEFAULT 0,
    used        bigint      NOT NULL DEFAULT 0,
    renewed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (campaign_id, day, holder)
) WITH (fillfactor = 70);

-- How often a user was shown a campaign or an advertiser that has a cap. Hour and day are the campaign's own.
CREATE TABLE user_frequency (
    uid        uuid     NOT NULL,
    -- 'c' for a campaign, 'a' for an advertiser.
    kind       "char"   NOT NULL CHECK (kind IN ('c', 'a')),
    id         integer  NOT NULL,
    hour       timestamptz NOT NULL,
    day        date     NOT NULL,
    hour_count integer  NOT NULL,
    day_count  integer  NOT NULL,
    count      integer  NOT NULL,
    -- The latest decisions that are counted here, so that a worker knows which of its own are.
    latest     uuid[]   NOT NULL DEFAULT '{}',
    PRIMARY KEY (uid, kind, id)
) WITH (fillfactor = 80);
