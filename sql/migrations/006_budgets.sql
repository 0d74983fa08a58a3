-- Budgets: what campaigns have had, what workers hold of what is left, and what people have seen.
--
-- A campaign with a goal may only be served by a worker that holds a share of what is left, its lease. A lease
-- is granted in advance, so no number of workers together can serve more than there is; what a worker has used
-- is counted when its decisions arrive here, and what a dead worker has not used comes back when its last
-- event line has arrived.
--
-- **Why a goal is never exceeded.** Each decision of such a campaign may become one impression, so of
-- everything that may still come of what was promised we count
--
--     committed = billed + open + outstanding
--     billed        impressions that count (delivery_day)
--     open          decisions - impressions of the minutes in which a decision may still become one
--     outstanding   granted - used of all leases
--
-- and `lease_take` grants no more than goal - committed, under the campaign's lock and from one snapshot taken
-- after it. Nothing else makes `committed` larger: a decision that arrives moves from outstanding to open and its
-- impression from open to billed, each in the transaction that brings the line. (An impression that arrives first
-- is billed while its decision is still outstanding. It makes open smaller by one, or where nothing is open
-- counts twice for a moment.) A minute
-- leaves `open` when no beacon can be taken for it any more, and none that was taken is still on its way here:
-- each worker says with every call up to when all its events are in the tables, and the slowest counts.
-- So what has become or may become an impression is never more than `committed`, and that is never more than
-- the goal was when the last lease was granted.
--
-- The same holds for each of the campaign's days, since a lease is one for one day.

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

-- Who may hold leases: each worker, by the name of its event stream, which nobody else ever has.
CREATE TABLE lease_holder (
    holder     text        PRIMARY KEY,
    -- Told again when a worker finds it changed: it was taken for dead and what it held was given to others.
    since      timestamptz NOT NULL,
    -- The number of its last call. An earlier one that arrives late, from a connection that it has given up,
    -- has no effect.
    turn       bigint      NOT NULL,
    -- Which directory its event lines are in; null: in none, they die with it.
    journal    text,
    seen_at    timestamptz NOT NULL,
    -- All events that it took before are in the tables.
    up_to      timestamptz NOT NULL,
    -- How long after its decision it takes an impression.
    window_s   double precision NOT NULL CHECK (window_s > 0)
) WITH (fillfactor = 50);

-- What a worker may serve of a campaign on one of its days: granted - used, both since the holder's beginning.
CREATE TABLE lease (
    holder      text    NOT NULL,
    campaign_id integer NOT NULL,
    day         date    NOT NULL,
    granted     bigint  NOT NULL DEFAULT 0,
    used        bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (campaign_id, day, holder)
) WITH (fillfactor = 50);

-- There is none by holder: by it all leases of a worker would be read for each campaign that it asks about. Who looks
-- for those of the dead reads the table.

-- One row per campaign, for its lock: who grants holds it. A row of our own, so that an edit of the campaign
-- and a grant do not wait for each other.
CREATE TABLE budget (
    campaign_id integer PRIMARY KEY,
    -- It was served without a goal before, so in the minutes up to this one are impressions of decisions that were
    -- not counted: nothing is open less for them.
    mixed_until timestamptz,
    -- Which time of getting its goal that was about: `goal_set.version`; null: it always had one.
    goal_version bigint
);

-- When campaigns got a goal that had been served without one: by the catalog's version, for it may be taken away and
-- set again while `budget` has a row. A table of its own: whoever edits a campaign may take his time, and must not
-- hold the lock under which shares of it are granted.
CREATE TABLE goal_set (
    campaign_id integer PRIMARY KEY,
    version     bigint NOT NULL
);

CREATE FUNCTION goal_note() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO goal_set (campaign_id, version) VALUES (NEW.id, catalog_version())
    ON CONFLICT (campaign_id) DO UPDATE SET version = excluded.version;
    RETURN NULL;
END
$$;

CREATE TRIGGER campaign_goal AFTER UPDATE ON campaign
    FOR EACH ROW WHEN (OLD.goal_kind IS NULL AND NEW.goal_kind IS NOT NULL)
    EXECUTE FUNCTION goal_note();

-- Requests by hour and zone, of the last days: the curve that even pacing follows. Zone 0 is all of them.
CREATE TABLE traffic_hour (
    hour     timestamptz NOT NULL,
    zone_id  integer     NOT NULL,
    requests bigint      NOT NULL,
    PRIMARY KEY (hour, zone_id)
) WITH (fillfactor = 70);

-- How often a user was shown a campaign or an advertiser that has a cap. Hour and day are the campaign's own;
-- an advertiser's are those of UTC.
CREATE TABLE user_frequency (
    uid        uuid     NOT NULL,
    -- 'c' for a campaign, 'a' for an advertiser.
    kind       "char"   NOT NULL CHECK (kind IN ('c', 'a')),
    id         integer  NOT NULL,
    -- The latest hour and day with anything in it, and how much was in them.
    hour       timestamptz NOT NULL,
    day        date     NOT NULL,
    hour_count integer  NOT NULL,
    day_count  integer  NOT NULL,
    count      integer  NOT NULL,
    -- The latest 16 decisions that are counted here, the latest first, so that a worker knows which of its own are.
    latest     uuid[]   NOT NULL DEFAULT '{}',
    PRIMARY KEY (uid, kind, id)
) WITH (fillfactor = 80);

-- Called by `ad_ingest`: decisions of this holder that used its leases, summed by campaign and day. A lease
-- that is gone was settled, see `lease_settle`; its decisions are open all the same.
--
-- Leases are locked in the order of their key here and in `lease_take`.
CREATE FUNCTION lease_used(holder text, campaigns integer[], days date[], counts integer[]) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path FROM CURRENT
BEGIN ATOMIC
    WITH sums AS (
        SELECT n.campaign_id, n.day, sum(n.count)::bigint AS count
          FROM unnest(lease_used.campaigns, lease_used.days, lease_used.counts) AS n (campaign_id, day, count)
         GROUP BY n.campaign_id, n.day
    ), locked AS MATERIALIZED (
        SELECT l.campaign_id, l.day, s.count
          FROM lease AS l JOIN sums AS s USING (campaign_id, day)
         WHERE l.holder = lease_used.holder
         ORDER BY l.campaign_id, l.day
           FOR UPDATE OF l
    )
    UPDATE lease AS l
       SET used = l.used + locked.count
      FROM locked
     WHERE l.holder = lease_used.holder AND l.campaign_id = locked.campaign_id AND l.day = locked.day;
END;

-- When this day of a time zone begins. A midnight that comes twice (clocks go back over it) is the first one;
-- one that does not come at all is the moment at which the clocks jump.
CREATE FUNCTION day_begins(day date, time_zone text) RETURNS timestamptz
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN ((day::timestamp AT TIME ZONE time_zone) - interval '1 hour') AT TIME ZONE time_zone >= day
    THEN (day::timestamp AT TIME ZONE time_zone) - interval '1 hour'
    ELSE day::timestamp AT TIME ZONE time_zone
END;

-- Decisions of minutes that were over by then cannot become impressions any more, and those that did are counted.
-- The margin is for clocks of hosts that differ.
CREATE FUNCTION lease_horizon(at timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
BEGIN ATOMIC
    SELECT least(lease_horizon.at, min(h.up_to))
           - make_interval(secs => max(h.window_s) + least(60, greatest(5, max(h.window_s) / 10)))
      FROM lease_holder AS h;
END;

-- A worker asks for what it may serve, gives back what it will not, and says that it is there; all in absolute
-- numbers, so that a call whose outcome is unknown is made again with another number.
--
-- campaigns, days: whose lease; a day is null when the worker does not know yet which day the campaign has.
-- wants: what `granted` should be, counted since the holder's beginning. Less than it is: the rest is given back.
-- ceilings: how much of the day may be committed by now, by the plan of even pacing; null: nothing is granted
-- to a campaign with even pacing, and there is no such limit to others.
--
-- One row for each campaign that has a goal, about the day that it has now. No row at all: a later call was first.
--
-- SECURITY DEFINER, as those below: a serving role takes leases and can change no sum itself.
--
-- Locks: the holder, then the campaigns in the order of their ids, then this holder's leases in that of their key.
-- Nobody who holds a lease's lock waits for one of the others.
CREATE FUNCTION lease_take(
    taker text, its_turn bigint, its_journal text, unshipped_s double precision, impression_window_s double precision,
    campaigns integer[], days date[], wants bigint[], ceilings bigint[],
    at timestamptz DEFAULT now())
    RETURNS TABLE (
        campaign_id integer, day date, granted bigint, begins_s double precision, ends_s double precision,
        had bigint, had_today bigint, committed bigint, committed_today bigint, room bigint, holders integer,
        since_s double precision, at_s double precision)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
    -- A plan that was made while the tables were empty lasts as long as the connection. It must not be one that reads
    -- all leases for each campaign: *measured*, with 3,000 of them, 230 ms for a call about 500, and now 15.
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    locked     integer[];
    horizon    timestamptz;
    registered timestamptz;
    sharing    integer;
    held       record;
BEGIN
    PERFORM read_committed_only('lease_take');
    INSERT INTO lease_holder AS h (holder, since, turn, journal, seen_at, up_to, window_s)
    VALUES (taker, at, its_turn, its_journal, at, at - make_interval(secs => unshipped_s + 1), impression_window_s)
    ON CONFLICT (holder) DO UPDATE
       SET turn = excluded.turn, seen_at = excluded.seen_at, up_to = excluded.up_to, window_s = excluded.window_s
     WHERE h.turn < excluded.turn
    RETURNING h.since INTO registered;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    horizon := lease_horizon(at);

    -- Only where something is to be granted: whoever gives back or looks waits for nobody.
    SELECT array_agg(DISTINCT a.id ORDER BY a.id) INTO locked
      FROM unnest(campaigns, days, wants) AS a (id, day, want)
     WHERE a.day IS NOT NULL
       AND a.want > coalesce((SELECT l.granted FROM lease AS l
                               WHERE (l.campaign_id, l.day, l.holder) = (a.id, a.day, taker)), 0);
    IF locked IS NOT NULL THEN
        INSERT INTO budget (campaign_id, mixed_until, goal_version)
        SELECT id, CASE WHEN EXISTS (SELECT FROM rollup_part AS r
                                      WHERE r.campaign_id = id AND r.hour > horizon - interval '1 hour')
                        THEN at + interval '1 minute' END,
               (SELECT s.version FROM goal_set AS s WHERE s.campaign_id = id)
          FROM unnest(locked) AS id
         WHERE NOT EXISTS (SELECT FROM budget AS b WHERE b.campaign_id = id)
         ORDER BY id
        ON CONFLICT DO NOTHING;
        PERFORM FROM budget AS b WHERE b.campaign_id = ANY (locked) ORDER BY b.campaign_id FOR UPDATE;
        -- Those that had a goal when they were asked about before, have lost it and have one again. Whether they
        -- were served in between is not looked at: the lines may still be on their way.
        UPDATE budget AS b SET mixed_until = at + interval '1 minute', goal_version = s.version
          FROM goal_set AS s
         WHERE b.campaign_id = ANY (locked) AND s.campaign_id = b.campaign_id
           AND b.goal_version IS DISTINCT FROM s.version;
    END IF;
    FOR held IN
        SELECT a.id, a.day, greatest(a.want, l.used) AS least, l.granted
          FROM (SELECT n.* FROM unnest(campaigns, days, wants) AS n (id, day, want) ORDER BY n.id, n.day) AS a
         CROSS JOIN LATERAL (
               SELECT l.granted, l.used FROM lease AS l
                WHERE (l.campaign_id, l.day, l.holder) = (a.id, a.day, taker)
                  FOR UPDATE) AS l
    LOOP
        IF held.granted > held.least THEN
            UPDATE lease AS l SET granted = held.least
             WHERE (l.campaign_id, l.day, l.holder) = (held.id, held.day, taker);
        END IF;
    END LOOP;

    SELECT greatest(1, count(*)) INTO sharing FROM lease_holder AS h WHERE h.seen_at > at - interval '5 seconds';

    -- A statement of its own: its snapshot is from after the locks.
    RETURN QUERY
    WITH goals AS MATERIALIZED (
        -- Each once, with what was asked for its present day.
        SELECT DISTINCT ON (n.id) n.*,
               CASE WHEN n.asked_day = n.day THEN n.asked_want END AS want,
               CASE WHEN n.asked_day = n.day THEN n.asked_ceiling END AS ceiling
          FROM (SELECT c.id, c.goal_kind, c.goal_total, c.goal_daily, c.pacing, c.time_zone,
                       (at AT TIME ZONE c.time_zone)::date AS day,
                       c.status = 'active' AND v.status = 'active'
                       AND coalesce(c.starts_at <= at, true) AND coalesce(at < c.ends_at, true) AS runs,
                       a.day AS asked_day, a.want AS asked_want, a.ceiling AS asked_ceiling
                  FROM unnest(campaigns, days, wants, ceilings) AS a (id, day, want, ceiling)
                  JOIN campaign AS c ON c.id = a.id
                  JOIN advertiser AS v ON v.id = c.advertiser_id
                 WHERE c.goal_kind IS NOT NULL) AS n
         ORDER BY n.id, n.asked_day = n.day DESC NULLS LAST
    ), figures AS MATERIALIZED (
        SELECT g.*, mine.granted,
               CASE g.goal_kind WHEN 'clicks' THEN past.clicks ELSE past.impressions END AS had,
               CASE g.goal_kind WHEN 'clicks' THEN past.clicks_today ELSE past.impressions_today END AS had_today,
               unseen.open + leased.outstanding AS under_way,
               unseen.open_today + leased.outstanding_today AS under_way_today
          FROM goals AS g
         CROSS JOIN LATERAL (
               SELECT coalesce(max(l.granted), 0) AS granted
                 FROM lease AS l WHERE (l.campaign_id, l.day, l.holder) = (g.id, g.day, taker)) AS mine
         CROSS JOIN LATERAL (
               SELECT coalesce(sum(d.impressions), 0)::bigint AS impressions,
                      coalesce(sum(d.clicks), 0)::bigint AS clicks,
                      coalesce(sum(d.impressions) FILTER (WHERE d.day = g.day), 0)::bigint AS impressions_today,
                      coalesce(sum(d.clicks) FILTER (WHERE d.day = g.day), 0)::bigint AS clicks_today
                 FROM delivery_day AS d WHERE d.campaign_id = g.id) AS past
         CROSS JOIN LATERAL (
               SELECT coalesce(sum(o.open), 0)::bigint AS open,
                      coalesce(sum(o.open) FILTER (WHERE m.day = g.day), 0)::bigint AS open_today
                 FROM delivery_minute AS m
                CROSS JOIN LATERAL (
                      SELECT CASE WHEN m.minute <= b.mixed_until THEN m.decisions
                                  ELSE greatest(0, m.decisions - m.impressions) END AS open
                        FROM (SELECT g.id) AS this LEFT JOIN budget AS b ON b.campaign_id = this.id) AS o
                WHERE m.campaign_id = g.id AND m.minute > horizon - interval '1 minute') AS unseen
         CROSS JOIN LATERAL (
               SELECT coalesce(sum(greatest(0, l.granted - l.used)), 0)::bigint AS outstanding,
                      coalesce(sum(greatest(0, l.granted - l.used)) FILTER (WHERE l.day = g.day), 0)::bigint
                      AS outstanding_today
                 FROM lease AS l WHERE l.campaign_id = g.id) AS leased
    ), rooms AS MATERIALIZED (
        -- Nobody knows how many impressions a click takes, so a goal in clicks is open until it is reached.
        SELECT f.*,
               -- What is left of the goal, whatever the plan says.
               CASE f.goal_kind WHEN 'clicks' THEN 1000000000
                    ELSE greatest(0, least(f.goal_total - f.had - f.under_way,
                                           f.goal_daily - f.had_today - f.under_way_today))
               END AS rest,
               CASE WHEN NOT f.runs THEN 0
                    WHEN f.goal_kind = 'clicks' THEN
                         CASE WHEN f.had < coalesce(f.goal_total, f.had + 1)
                               AND f.had_today < least(f.goal_daily, f.ceiling,
                                                       CASE f.pacing WHEN 'even' THEN coalesce(f.ceiling, 0)
                                                                     ELSE f.had_today + 1 END)
                              THEN 1000000000 ELSE 0 END
                    ELSE greatest(0, least(
                         f.goal_total - f.had - f.under_way,
                         f.goal_daily - f.had_today - f.under_way_today,
                         CASE f.pacing WHEN 'even' THEN coalesce(f.ceiling, 0) ELSE f.ceiling END
                         - f.had_today - f.under_way_today))
               END AS room
          FROM figures AS f
    ), grants AS MATERIALIZED (
        -- While there is much, what is wanted; towards the end a part of the rest, so that a worker which dies then
        -- takes little with it. What the plan allows for these few seconds is not shared out: so each who asks would
        -- get one at a time.
        SELECT r.*,
               CASE WHEN r.want > r.granted AND r.id = ANY (locked)
                    THEN greatest(0, least(r.want - r.granted, r.room, greatest(1, r.rest / (2 * sharing))))
                    ELSE 0 END AS more
          FROM rooms AS r
    ), dates AS MATERIALIZED (
        SELECT d.*, extract(epoch FROM day_begins(d.day, d.time_zone))::double precision AS begins_s,
               extract(epoch FROM day_begins(d.day + 1, d.time_zone))::double precision AS ends_s
          FROM (SELECT DISTINCT g.day, g.time_zone FROM goals AS g) AS d
    ), granting AS (
        INSERT INTO lease AS l (holder, campaign_id, day, granted)
        SELECT taker, g.id, g.day, g.more FROM grants AS g WHERE g.more > 0 ORDER BY g.id
        ON CONFLICT (campaign_id, day, holder) DO UPDATE SET granted = l.granted + excluded.granted
        RETURNING l.campaign_id
    )
    SELECT g.id, g.day, g.granted + g.more,
           d.begins_s, d.ends_s,
           g.had, g.had_today,
           CASE g.goal_kind WHEN 'clicks' THEN g.had ELSE g.had + g.under_way + g.more END,
           CASE g.goal_kind WHEN 'clicks' THEN g.had_today ELSE g.had_today + g.under_way_today + g.more END,
           g.room - g.more, sharing,
           extract(epoch FROM registered)::double precision, extract(epoch FROM at)::double precision
      FROM grants AS g
      JOIN dates AS d USING (day, time_zone)
     ORDER BY g.id;
END
$$;

-- What the dead have held and not used goes back. Dead, and all its lines in the tables, is who
--
-- - has not been heard of for a while, and of whose stream neither its journal's directory has a file (the keeper
--   who calls looks, `streams` is what it has found) nor the ledger a row: a worker that holds a lease writes a line
--   every few seconds, so as long as it lives, however long it is stopped, its file is there; and a file goes
--   only when all of it is in the tables;
-- - has not been heard of for `gone_after`: its host is gone, and perhaps its lines. No worker uses a lease that it
--   could not renew for half an hour, so nothing can come of its decisions any more. Should its lines
--   appear later, then impressions in them may be beyond the goal; `ad_ingest` does not bill those.
CREATE FUNCTION lease_settle(
    its_journal text, streams text[], gone_after interval DEFAULT '1 hour', at timestamptz DEFAULT now())
    RETURNS TABLE (holder text, unused bigint)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
#variable_conflict use_column
DECLARE
    dead text[];
BEGIN
    WITH gone AS (
        DELETE FROM lease_holder AS h
         WHERE h.seen_at < at - interval '5 seconds'
           AND (h.journal = its_journal AND h.holder <> ALL (streams)
                AND NOT EXISTS (SELECT FROM journal_segment AS s WHERE starts_with(s.name, h.holder || '-'))
                OR h.seen_at < at - gone_after - make_interval(secs => greatest(0, h.window_s - 900)))
        RETURNING h.holder
    )
    SELECT array_agg(holder) INTO dead FROM gone;
    IF dead IS NULL THEN
        RETURN;
    END IF;
    PERFORM FROM lease AS l WHERE l.holder = ANY (dead) ORDER BY l.campaign_id, l.day, l.holder FOR UPDATE;
    RETURN QUERY
    WITH returned AS (
        DELETE FROM lease AS l WHERE l.holder = ANY (dead)
        RETURNING l.holder, greatest(0, l.granted - l.used) AS unused
    )
    SELECT d, coalesce(sum(r.unused), 0)::bigint
      FROM unnest(dead) AS d LEFT JOIN returned AS r ON r.holder = d
     GROUP BY d;
END
$$;

-- Forget what nobody asks for any more: minutes that are over, leases of past days that are used up. A worker may have
-- forgotten one that it had not used up (its line was lost, an answer never came): while it lives nobody settles it.
CREATE FUNCTION lease_clean(at timestamptz DEFAULT now()) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
BEGIN ATOMIC
    DELETE FROM delivery_minute
     WHERE minute < coalesce(lease_horizon(lease_clean.at), lease_clean.at - interval '1 day') - interval '10 minutes';
    DELETE FROM lease
     WHERE day < (lease_clean.at AT TIME ZONE 'UTC')::date - 1
       -- Or all of its holder's lines of that day are here: what they do not say was used never will be.
       AND (used >= granted
            OR EXISTS (SELECT FROM lease_holder AS h
                        WHERE h.holder = lease.holder
                          AND h.up_to > (lease.day + 2)::timestamp AT TIME ZONE 'UTC'));
END;

-- Bring the traffic of the last seven days up to date: the hours that are missing, and those that may have grown.
CREATE FUNCTION traffic_refresh(at timestamptz DEFAULT now()) RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
BEGIN ATOMIC
    DELETE FROM traffic_hour WHERE hour < date_trunc('hour', traffic_refresh.at, 'UTC') - interval '8 days';
    INSERT INTO traffic_hour AS t (hour, zone_id, requests)
    SELECT r.hour, coalesce(r.zone_id, 0), sum(r.requests)
      FROM rollup_hour AS r
     WHERE r.hour >= coalesce((SELECT max(k.hour) FROM traffic_hour AS k) - interval '1 hour',
                              date_trunc('hour', traffic_refresh.at, 'UTC') - interval '7 days')
       AND r.hour < date_trunc('hour', traffic_refresh.at, 'UTC')
     GROUP BY GROUPING SETS ((r.hour, r.zone_id), (r.hour))
    HAVING sum(r.requests) > 0
    ON CONFLICT (hour, zone_id) DO UPDATE SET requests = excluded.requests;
END;

-- Called by `ad_ingest`: users were shown campaigns of which they, or their advertisers, have caps. One
-- element of each array for each decision. Late ones count for the hour and day they were made in, if that is
-- still the latest.
CREATE FUNCTION user_seen(uids uuid[], campaigns integer[], decided timestamptz[], decisions uuid[]) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path FROM CURRENT
BEGIN ATOMIC
    WITH seen AS (
        SELECT n.uid, n.decision, k.kind, k.id,
               date_trunc('hour', n.decided_at, k.time_zone) AS hour,
               (n.decided_at AT TIME ZONE k.time_zone)::date AS day
          FROM unnest(user_seen.uids, user_seen.campaigns, user_seen.decided, user_seen.decisions)
               AS n (uid, campaign_id, decided_at, decision)
          JOIN campaign AS c ON c.id = n.campaign_id
          JOIN advertiser AS v ON v.id = c.advertiser_id
         CROSS JOIN LATERAL (VALUES
               ('c'::"char", c.id, c.time_zone, coalesce(c.cap_hour, c.cap_day, c.cap_flight) IS NOT NULL),
               ('a'::"char", v.id, 'UTC', coalesce(v.cap_hour, v.cap_day, v.cap_flight) IS NOT NULL)
               ) AS k (kind, id, time_zone, capped)
         WHERE k.capped
    ), newest AS (
        SELECT s.*,
               max(s.hour) OVER same AS last_hour,
               max(s.day) OVER same AS last_day
          FROM seen AS s
        WINDOW same AS (PARTITION BY s.uid, s.kind, s.id)
    ), sums AS (
        SELECT uid, kind, id, last_hour, last_day,
               count(*) FILTER (WHERE hour = last_hour)::integer AS hour_count,
               count(*) FILTER (WHERE day = last_day)::integer AS day_count,
               count(*)::integer AS count,
               (array_agg(decision ORDER BY decision DESC))[1:16] AS latest
          FROM newest
         GROUP BY uid, kind, id, last_hour, last_day
    )
    INSERT INTO user_frequency AS f (uid, kind, id, hour, day, hour_count, day_count, count, latest)
    SELECT uid, kind, id, last_hour, last_day, hour_count, day_count, count, latest
      FROM sums
     ORDER BY uid, kind, id
    ON CONFLICT (uid, kind, id) DO UPDATE
       SET hour       = greatest(f.hour, excluded.hour),
           hour_count = CASE WHEN f.hour > excluded.hour THEN f.hour_count
                             WHEN f.hour = excluded.hour THEN f.hour_count + excluded.hour_count
                             ELSE excluded.hour_count END,
           day        = greatest(f.day, excluded.day),
           day_count  = CASE WHEN f.day > excluded.day THEN f.day_count
                             WHEN f.day = excluded.day THEN f.day_count + excluded.day_count
                             ELSE excluded.day_count END,
           count      = f.count + excluded.count,
           latest     = (SELECT (array_agg(d ORDER BY d DESC))[1:16]
                           FROM unnest(f.latest || excluded.latest) AS d);
END;

COMMENT ON TABLE lease IS 'What each worker may still serve of campaigns with a goal: granted - used.';
COMMENT ON TABLE user_frequency IS 'How often users were shown what has a frequency cap.';

REVOKE EXECUTE ON FUNCTION lease_take(
    text, bigint, text, double precision, double precision, integer[], date[], bigint[], bigint[], timestamptz) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION lease_settle(text, text[], interval, timestamptz) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION lease_clean(timestamptz) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION traffic_refresh(timestamptz) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION goal_note() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION lease_used(text, integer[], date[], integer[]) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION user_seen(uuid[], integer[], timestamptz[], uuid[]) FROM PUBLIC;

COMMENT ON TABLE delivery_day IS 'What each campaign has had on each of its days; impressions and clicks that are billed.';
COMMENT ON TABLE delivery_minute IS 'Decisions and impressions by minute, as long as one may still become the other.';
COMMENT ON TABLE lease_holder IS 'The workers that may hold leases, by the names of their event streams.';
COMMENT ON TABLE budget IS 'A row for each campaign with a goal: the lock of whoever grants its leases.';
COMMENT ON TABLE goal_set IS 'When a campaign that had been served without a goal got one, by the catalog''s version.';
COMMENT ON FUNCTION goal_note() IS 'Notes in goal_set that a campaign has got a goal.';
COMMENT ON TABLE traffic_hour IS 'Requests by hour and zone of the last days: the curve of even pacing.';
COMMENT ON FUNCTION lease_take(text, bigint, text, double precision, double precision, integer[], date[], bigint[],
    bigint[], timestamptz) IS 'A worker asks for leases, gives back what it does not need, and says that it lives.';
COMMENT ON FUNCTION lease_used(text, integer[], date[], integer[]) IS 'Decisions that used leases have arrived.';
COMMENT ON FUNCTION lease_settle(text, text[], interval, timestamptz) IS 'Gives back what dead workers have not used.';
COMMENT ON FUNCTION lease_horizon(timestamptz) IS 'Decisions before this cannot become impressions any more.';
COMMENT ON FUNCTION lease_clean(timestamptz) IS 'Forgets minutes and leases that nobody asks for any more.';
COMMENT ON FUNCTION day_begins(date, text) IS 'When a day of a time zone begins.';
COMMENT ON FUNCTION traffic_refresh(timestamptz) IS 'Brings traffic_hour up to date.';
COMMENT ON FUNCTION user_seen(uuid[], integer[], timestamptz[], uuid[]) IS 'Counts what users were shown of campaigns and advertisers with caps.';
