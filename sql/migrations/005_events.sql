-- What became of decisions: events that count once, and the hourly rollup that is exact at every moment.
--
-- All requests stand in request_log, decisions and beacons included. These tables are derived from the same
-- lines in the same transaction (`ad_ingest`): what counts, once, and its sums.
--
-- A decision's id is a version 7 uuid, so it tells when the decision was made. Everything that follows from
-- it (impression, viewable, click) is kept under the decision's day and summed under the decision's hour,
-- however late it comes: so a replayed beacon meets the first one in the same partition, and rates compare
-- what belongs together.
--
-- **Whoever ships lines tells their sums.** What stands in many lines (decisions, leases used) comes added up
-- by key; only what must be looked at one by one (events, conversions, users with caps) comes as rows. They
-- come as texts in the format of COPY, as lines do: splitting them is the cheapest way into PostgreSQL.
--
-- **Locks are taken in one order** by all who ingest, whatever their batches hold: events, guards, conversions,
-- leases, users, deliveries, and within each by key. So no two of them wait for each other. The rollup, of which
-- everybody would want the same rows, is only appended to, and nobody waits there.

-- When a version 7 uuid was made. The three functions are inlined; the last two are what an hour is and what an
-- event costs, here and wherever it is computed again.
CREATE FUNCTION uuid_time(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN timestamptz '1970-01-01 00:00:00+00'
    + ('x' || left(translate(id::text, '-', ''), 12))::bit(48)::bigint * interval '1 millisecond';

CREATE FUNCTION utc_hour(moment timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN date_trunc('hour', moment AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';

-- In billionths of the currency; the price is in millionths, for a thousand impressions, a click or a conversion.
CREATE FUNCTION ad_spend_nanos(kind text, price_model text, price_micros bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN price_model = 'cpm' AND kind = 'impression' THEN price_micros
    WHEN price_model = 'cpc' AND kind = 'click'      THEN price_micros * 1000
    WHEN price_model = 'cpa' AND kind = 'conversion' THEN price_micros * 1000
    ELSE 0 END;

-- Who holds a lock here goes on with statements that see what its last holder has done: a statement's snapshot must
-- be taken behind the lock. In REPEATABLE READ it is that of the transaction's first statement, and two who wait for
-- each other would both count up to the same goal. An operator may have made that the default of the database, so our
-- connections say what they need; should one not have, it is refused, and not for the lines that it brings.
CREATE FUNCTION read_committed_only(who text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT
AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION '%: not in a transaction that is %', who, current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Begin it as READ COMMITTED; see default_transaction_isolation.';
    END IF;
END
$$;

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
    price_model  text        NOT NULL CHECK (price_model IN ('cpm', 'cpc', 'cpa')),
    kind         text        NOT NULL CHECK (kind IN ('impression', 'viewable', 'click')),
    -- '' where it is not known. A key of the rollup must fit into a page of its index.
    country      text        NOT NULL COLLATE "C" CHECK (octet_length(country) <= 200),
    device       text        NOT NULL COLLATE "C" CHECK (octet_length(device) <= 200),
    -- Why it is not billed; null: it is.
    filtered     text,
    PRIMARY KEY (decision, kind, decided_at)
) PARTITION BY RANGE (decided_at);

-- What a user has seen and clicked: for conversions, and to forget somebody.
CREATE INDEX ad_event_uid ON ad_event (uid, kind) WHERE uid IS NOT NULL;

COMMENT ON TABLE ad_event IS 'Impressions, viewables and clicks, each once, one partition per UTC day of the decision.';

CREATE TABLE conversion (
    advertiser_id integer     NOT NULL,
    order_id      text        NOT NULL CHECK (octet_length(order_id) BETWEEN 1 AND 200),
    received_at   timestamptz NOT NULL,
    value_micros  bigint      NOT NULL DEFAULT 0,
    uid           uuid,
    -- The decision whose click it names itself, by a token.
    named         uuid,
    -- What it is attributed to, and that decision's facts; null: to nothing we know of.
    decision      uuid,
    attributed_to text        CHECK (attributed_to IN ('click', 'view')),
    decided_at    timestamptz,
    zone_id       integer     NOT NULL DEFAULT 0,
    campaign_id   integer     NOT NULL DEFAULT 0,
    creative_id   integer     NOT NULL DEFAULT 0,
    price_micros  bigint      NOT NULL DEFAULT 0,
    price_model   text        NOT NULL DEFAULT 'cpm' CHECK (price_model IN ('cpm', 'cpc', 'cpa')),
    country       text        NOT NULL DEFAULT '' COLLATE "C",
    device        text        NOT NULL DEFAULT '' COLLATE "C",
    filtered      text,
    PRIMARY KEY (advertiser_id, order_id),
    CONSTRAINT conversion_attributed CHECK (
        (decision IS NULL) = (attributed_to IS NULL) AND (decision IS NULL) = (decided_at IS NULL))
);

-- Those that may still be attributed, or better, see conversion_catch_up; and those of an hour.
CREATE INDEX conversion_open ON conversion (received_at) WHERE decision IS NULL;
CREATE INDEX conversion_elsewhere ON conversion (received_at) WHERE decision <> named;
CREATE INDEX conversion_decided ON conversion (decided_at) WHERE decision IS NOT NULL;
CREATE INDEX conversion_uid ON conversion (uid) WHERE uid IS NOT NULL;

COMMENT ON TABLE conversion IS 'Orders that advertisers have told of, each once, and what they are attributed to.';

-- Sums by hour (UTC). Money is in billionths of the currency: an impression of a campaign that pays
-- price_micros for a thousand costs exactly price_micros of these. Conversions that are attributed to nothing
-- are in no sum.
--
-- They stand in two tables. Whoever ingests appends what a batch adds up to (`rollup_delta`): no index, no
-- conflict, no lock that two could want. The keeper folds that into `rollup_base` every few seconds, and
-- `rollup_hour` is the sum of both: in each snapshot something is here or there, never in both or neither.
CREATE TABLE rollup_base (
    hour         timestamptz NOT NULL,
    zone_id      integer     NOT NULL,
    -- 0: no ad.
    campaign_id  integer     NOT NULL,
    creative_id  integer     NOT NULL,
    -- Codes and names of ours: compared byte by byte, whatever the database's language.
    country      text        NOT NULL COLLATE "C",
    device       text        NOT NULL COLLATE "C",
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

-- What batches have added, a row for each: the n-th elements of its arrays belong together. Without an array all
-- its elements are 0. A row of arrays costs PostgreSQL a fifth of what as many rows would, to write and to
-- delete. The hour is counted from 1970; an ad was filled where there is a campaign.
CREATE TABLE rollup_delta (
    hours        integer[] NOT NULL,
    zones        integer[] NOT NULL,
    campaigns    integer[] NOT NULL,
    creatives    integer[] NOT NULL,
    countries    text[]    NOT NULL COLLATE "C",
    devices      text[]    NOT NULL COLLATE "C",
    filtered     boolean[] NOT NULL,
    requests     integer[],
    impressions  integer[],
    viewable     integer[],
    clicks       integer[],
    conversions  integer[],
    value_micros bigint[],
    spend_nanos  bigint[]
) WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0,
        toast.autovacuum_vacuum_threshold = 50000, toast.autovacuum_vacuum_scale_factor = 0);

-- They live for seconds: not worth being compressed.
ALTER TABLE rollup_delta
    ALTER hours        SET STORAGE EXTERNAL,
    ALTER zones        SET STORAGE EXTERNAL,
    ALTER campaigns    SET STORAGE EXTERNAL,
    ALTER creatives    SET STORAGE EXTERNAL,
    ALTER countries    SET STORAGE EXTERNAL,
    ALTER devices      SET STORAGE EXTERNAL,
    ALTER filtered     SET STORAGE EXTERNAL,
    ALTER requests     SET STORAGE EXTERNAL,
    ALTER impressions  SET STORAGE EXTERNAL,
    ALTER viewable     SET STORAGE EXTERNAL,
    ALTER clicks       SET STORAGE EXTERNAL,
    ALTER conversions  SET STORAGE EXTERNAL,
    ALTER value_micros SET STORAGE EXTERNAL,
    ALTER spend_nanos  SET STORAGE EXTERNAL;

COMMENT ON TABLE rollup_base IS 'The sums that rollup_hour is made of, but for what came in the last seconds.';
COMMENT ON TABLE rollup_delta IS 'What has been added to rollup_hour in the last seconds.';

-- For whoever adds up anyway (reports do): there can be several rows of one key.
CREATE VIEW rollup_part AS
SELECT hour, zone_id, campaign_id, creative_id, country, device, filtered,
       requests, fills, impressions, viewable, clicks, conversions, value_micros, spend_nanos
  FROM rollup_base
UNION ALL
SELECT timestamptz '1970-01-01 00:00:00+00' + hour * interval '1 hour',
       zone_id, campaign_id, creative_id, country, device, filtered,
       coalesce(requests, 0)::bigint, CASE WHEN campaign_id > 0 THEN coalesce(requests, 0) ELSE 0 END::bigint,
       coalesce(impressions, 0)::bigint, coalesce(viewable, 0)::bigint, coalesce(clicks, 0)::bigint,
       coalesce(conversions, 0)::bigint, coalesce(value_micros, 0), coalesce(spend_nanos, 0)
  FROM (SELECT unnest(hours) AS hour, unnest(zones) AS zone_id, unnest(campaigns) AS campaign_id,
               unnest(creatives) AS creative_id, unnest(countries) AS country, unnest(devices) AS device,
               unnest(filtered) AS filtered, unnest(requests) AS requests, unnest(impressions) AS impressions,
               unnest(viewable) AS viewable, unnest(clicks) AS clicks, unnest(conversions) AS conversions,
               unnest(value_micros) AS value_micros, unnest(spend_nanos) AS spend_nanos
          FROM rollup_delta) AS told;

COMMENT ON VIEW rollup_part IS 'As rollup_hour, with several rows for a key at times; for sums.';

-- The first hour and the last, without a look at what is between.
CREATE VIEW rollup_span AS
SELECT least(base.first, timestamptz '1970-01-01 00:00:00+00' + delta.first * interval '1 hour')   AS first,
       greatest(base.last, timestamptz '1970-01-01 00:00:00+00' + delta.last * interval '1 hour') AS last
  FROM (SELECT (SELECT min(hour) FROM rollup_base) AS first, (SELECT max(hour) FROM rollup_base) AS last) AS base,
       (SELECT min(hour) AS first, max(hour) AS last FROM rollup_delta, unnest(hours) AS hour) AS delta;

COMMENT ON VIEW rollup_span IS 'The first and the last hour of rollup_hour.';

CREATE VIEW rollup_hour AS
SELECT hour, zone_id, campaign_id, creative_id, country, device, filtered,
       sum(requests)::bigint     AS requests,
       sum(fills)::bigint        AS fills,
       sum(impressions)::bigint  AS impressions,
       sum(viewable)::bigint     AS viewable,
       sum(clicks)::bigint       AS clicks,
       sum(conversions)::bigint  AS conversions,
       sum(value_micros)::bigint AS value_micros,
       sum(spend_nanos)::bigint  AS spend_nanos
  FROM rollup_part
 GROUP BY hour, campaign_id, zone_id, creative_id, country, device, filtered
-- What was judged anew may leave nothing behind.
HAVING (sum(requests), sum(impressions), sum(viewable), sum(clicks), sum(conversions)) <> (0, 0, 0, 0, 0);

COMMENT ON VIEW rollup_hour IS 'What request_log and ad_event add up to, by hour; equal to them in every snapshot.';

-- What is known of users, all of it deleted by `prefork-ads user forget`.
CREATE TABLE user_segment (
    uid        uuid    NOT NULL,
    segment_id integer NOT NULL REFERENCES segment,
    PRIMARY KEY (uid, segment_id)
);

-- The lock under which a campaign's goal is guarded: a row per campaign that has or had one. The campaign's own
-- row is not locked, for somebody who edits it may take his time.
CREATE TABLE delivery_guard (
    campaign_id integer PRIMARY KEY
);

-- To find a minute, or a decision, among the hundred million rows of a day: they come nearly in the order of their
-- time, so a few bytes for each range of pages are enough. The keeper has new ranges summarized; until then they are
-- read.
CREATE INDEX request_log_time ON request_log USING brin (time) WITH (pages_per_range = 64);

-- Days ------------------------------------------------------------------------------------------------------

-- The partitions of ad_event and their days.
CREATE VIEW ad_event_partition AS
SELECT c.oid::regclass                          AS partition,
       c.relnamespace::regnamespace::name       AS schema,
       c.relname                                AS name,
       c.relowner                               AS owner,
       to_date(right(c.relname, 8), 'YYYYMMDD') AS day
  FROM pg_inherits AS i
  JOIN pg_class    AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'ad_event'::regclass
   AND c.relname ~ '^ad_event_[0-9]{8}$';

COMMENT ON VIEW ad_event_partition IS 'The daily partitions of ad_event.';

-- The first day whose events are still kept. Those of days before it came too late: they stand in request_log and
-- nowhere else, since of a day that is forgotten nobody knows what has counted.
CREATE FUNCTION ad_event_first_day() RETURNS date
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
AS $$
    SELECT coalesce((SELECT value::date FROM server_setting WHERE name = 'ad_event_first_day'),
                    '0001-01-01'::date)
$$;

-- Create the partitions of these days that are missing, and return how many that were. As request_log_ensure,
-- except that autovacuum stays on (rows are looked up by key, and some are updated), and that days which are
-- forgotten stay so.
CREATE FUNCTION ad_event_ensure(first_day date, last_day date) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
DECLARE
    day       date;
    partition text;
    made      integer := 0;
BEGIN
    IF last_day - first_day NOT BETWEEN 0 AND 366 THEN
        RAISE EXCEPTION 'ad_event_ensure: % to % is not a range of 1 to 367 days', first_day, last_day
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR day IN SELECT first_day + offs FROM generate_series(0, last_day - first_day) AS offs LOOP
        partition := 'ad_event_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        LOCK TABLE ONLY ad_event IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(partition) IS NOT NULL OR day < ad_event_first_day();
        EXECUTE format('CREATE TABLE %I (LIKE ad_event INCLUDING ALL)', partition);
        EXECUTE format(
            'ALTER TABLE ad_event ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            partition,
            to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00',
            to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

COMMENT ON FUNCTION ad_event_ensure(date, date) IS 'Creates missing daily partitions of ad_event.';

-- Drop the partitions of days before this one, and return their names. That these days are forgotten is noted
-- under the lock that inserts need too: nobody who looked before can still insert after.
CREATE FUNCTION ad_event_drop_before(first_kept date) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
    SET lock_timeout = '200ms'
AS $$
DECLARE
    old record;
BEGIN
    LOCK TABLE ONLY ad_event IN ACCESS EXCLUSIVE MODE;
    INSERT INTO server_setting (name, value) VALUES ('ad_event_first_day', first_kept::text)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value
            WHERE server_setting.value::date < first_kept;
    FOR old IN SELECT schema, name FROM ad_event_partition WHERE day < first_kept ORDER BY day LOOP
        EXECUTE format('DROP TABLE %I.%I', old.schema, old.name);
        RETURN NEXT old.name;
    END LOOP;
END
$$;

COMMENT ON FUNCTION ad_event_drop_before(date) IS 'Retention: drops daily partitions of ad_event older than this day.';

-- Note in request_log_time what these days' new pages hold, and return how many ranges of pages that were.
CREATE FUNCTION request_log_summarize(first_day date, last_day date) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
    SET lock_timeout = '200ms'
AS $$
DECLARE
    index_name regclass;
    ranges     integer := 0;
BEGIN
    FOR index_name IN
        SELECT i.indexrelid
          FROM request_log_partition AS p
          JOIN pg_index    AS i ON i.indrelid = p.partition
          JOIN pg_inherits AS h ON h.inhrelid = i.indexrelid AND h.inhparent = 'request_log_time'::regclass
         WHERE p.day BETWEEN first_day AND last_day
         ORDER BY p.day
    LOOP
        ranges := ranges + brin_summarize_new_values(index_name);
    END LOOP;
    RETURN ranges;
END
$$;

COMMENT ON FUNCTION request_log_summarize(date, date) IS 'Keeps the index of request_log''s times up to date.';

-- Ingest ----------------------------------------------------------------------------------------------------

-- Add to the rollup what these decisions (a line for each column, an array: hour since 1970, zone, campaign,
-- creative, country, device, filtered, requests), events and conversions are worth. Nothing is locked.
CREATE FUNCTION rollup_add(decisions text, events ad_event[], conversions conversion[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path FROM CURRENT
AS $$
DECLARE
    columns text[];
BEGIN
    IF decisions <> '' THEN
        columns := string_to_array(decisions, E'\n');
        INSERT INTO rollup_delta (hours, zones, campaigns, creatives, countries, devices, filtered, requests)
        VALUES (columns[1]::integer[], columns[2]::integer[], columns[3]::integer[], columns[4]::integer[],
                columns[5]::text[], columns[6]::text[], columns[7]::boolean[], columns[8]::integer[]);
    END IF;
    IF events IS NULL AND conversions IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO rollup_delta
           (hours, zones, campaigns, creatives, countries, devices, filtered,
            impressions, viewable, clicks, conversions, value_micros, spend_nanos)
    SELECT array_agg(extract(epoch FROM utc_hour(told.decided_at))::bigint / 3600),
           array_agg(told.zone_id), array_agg(told.campaign_id), array_agg(told.creative_id),
           array_agg(told.country), array_agg(told.device), array_agg(told.filtered IS NOT NULL),
           array_agg((told.kind = 'impression')::integer), array_agg((told.kind = 'viewable')::integer),
           array_agg((told.kind = 'click')::integer), array_agg((told.kind = 'conversion')::integer),
           array_agg(told.value_micros),
           array_agg(CASE WHEN told.filtered IS NULL
                          THEN ad_spend_nanos(told.kind, told.price_model, told.price_micros) ELSE 0 END)
      FROM (
        SELECT e.decided_at, e.zone_id, e.campaign_id, e.creative_id, e.country, e.device, e.filtered,
               e.kind, e.price_model, e.price_micros, 0::bigint AS value_micros
          FROM unnest(rollup_add.events) AS e
        UNION ALL
        SELECT c.decided_at, c.zone_id, c.campaign_id, c.creative_id, c.country, c.device, c.filtered,
               'conversion', c.price_model, c.price_micros, c.value_micros
          FROM unnest(rollup_add.conversions) AS c
         WHERE c.decision IS NOT NULL
      ) AS told
    HAVING count(*) > 0;
END
$$;

-- Move what these many batches have added, those that came first, into the base; returns how many those were. Who
-- reads sees all of it there or all of it here. What somebody else is folding is left to him; should two
-- fold at once all the same, they take the rows of the base in the same order.
CREATE FUNCTION rollup_fold(at_most integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
DECLARE
    batches integer;
BEGIN
    WITH taken AS (
        DELETE FROM rollup_delta
         WHERE ctid = ANY (ARRAY(SELECT ctid FROM rollup_delta LIMIT at_most FOR UPDATE SKIP LOCKED))
        RETURNING *
    ), told AS (
        SELECT unnest(hours) AS hour, unnest(zones) AS zone_id, unnest(campaigns) AS campaign_id,
               unnest(creatives) AS creative_id, unnest(countries) AS country, unnest(devices) AS device,
               unnest(filtered) AS filtered, unnest(requests) AS requests, unnest(impressions) AS impressions,
               unnest(viewable) AS viewable, unnest(clicks) AS clicks, unnest(conversions) AS conversions,
               unnest(value_micros) AS value_micros, unnest(spend_nanos) AS spend_nanos
          FROM taken
    ), folded AS (
        INSERT INTO rollup_base AS r
               (hour, zone_id, campaign_id, creative_id, country, device, filtered,
                requests, fills, impressions, viewable, clicks, conversions, value_micros, spend_nanos)
        SELECT timestamptz '1970-01-01 00:00:00+00' + hour * interval '1 hour',
               zone_id, campaign_id, creative_id, country, device, filtered,
               coalesce(sum(requests), 0), CASE WHEN campaign_id > 0 THEN coalesce(sum(requests), 0) ELSE 0 END,
               coalesce(sum(impressions), 0), coalesce(sum(viewable), 0), coalesce(sum(clicks), 0),
               coalesce(sum(conversions), 0), coalesce(sum(value_micros), 0), coalesce(sum(spend_nanos), 0)
          FROM told
         GROUP BY hour, campaign_id, zone_id, creative_id, country, device, filtered
         ORDER BY hour, campaign_id, zone_id, creative_id, country, device, filtered
        ON CONFLICT (hour, campaign_id, zone_id, creative_id, country, device, filtered) DO UPDATE
           SET requests     = r.requests     + excluded.requests,
               fills        = r.fills        + excluded.fills,
               impressions  = r.impressions  + excluded.impressions,
               viewable     = r.viewable     + excluded.viewable,
               clicks       = r.clicks       + excluded.clicks,
               conversions  = r.conversions  + excluded.conversions,
               value_micros = r.value_micros + excluded.value_micros,
               spend_nanos  = r.spend_nanos  + excluded.spend_nanos
    )
    SELECT count(*) INTO batches FROM taken;
    RETURN batches;
END
$$;

COMMENT ON FUNCTION rollup_fold(integer) IS 'Moves what was added to rollup_hour into rollup_base; no sum changes.';

-- The events (kind, decision, milliseconds of the decision, received, uid, zone, campaign, creative, price,
-- model, country, device, filtered; lines of COPY) that have not been counted before; they are from now on. Of
-- the same event twice in a batch the first counts.
--
-- But a click that only a program has made so far (a scanner of links, say) gives way to that of a person, or whoever
-- is protected by such a program would never have clicked. Only clicks do: with an impression, billed or not, its
-- decision has ended, and a lease may have been granted for that.
CREATE FUNCTION ad_event_take(events text) RETURNS ad_event[]
    LANGUAGE plpgsql VOLATILE
    SET search_path FROM CURRENT
AS $$
DECLARE
    needed date;
    taken  ad_event[];
    freed  ad_event[];
BEGIN
    FOR needed IN
        SELECT DISTINCT ((timestamptz '1970-01-01 00:00:00+00'
                          + f[3]::bigint * interval '1 millisecond') AT TIME ZONE 'UTC')::date
          FROM string_to_table(events, E'\n') AS line, string_to_array(line, E'\t') AS f
         ORDER BY 1
    LOOP
        IF needed > current_date + 366 THEN
            RAISE EXCEPTION 'an event of a decision made on %', needed USING ERRCODE = 'datetime_field_overflow';
        END IF;
        IF to_regclass('ad_event_' || to_char(needed, 'YYYYMMDD')) IS NULL THEN
            PERFORM ad_event_ensure(needed, needed);
        END IF;
    END LOOP;
    WITH kept AS (
        INSERT INTO ad_event
               (kind, decision, decided_at, received_at, uid, zone_id, campaign_id, creative_id,
                price_micros, price_model, country, device, filtered)
        SELECT told.kind, told.decision, told.decided_at, told.received_at, told.uid,
               told.zone_id, told.campaign_id, told.creative_id,
               told.price_micros, told.price_model, told.country, told.device, told.filtered
          FROM (SELECT f[1] AS kind, f[2]::uuid AS decision,
                       timestamptz '1970-01-01 00:00:00+00' + f[3]::bigint * interval '1 millisecond' AS decided_at,
                       f[4]::timestamptz AS received_at, f[5]::uuid AS uid,
                       f[6]::integer AS zone_id, f[7]::integer AS campaign_id, f[8]::integer AS creative_id,
                       f[9]::bigint AS price_micros, f[10] AS price_model,
                       journal_unescape(f[11]) AS country, journal_unescape(f[12]) AS device,
                       journal_unescape(f[13]) AS filtered, lines.place
                  FROM string_to_table(events, E'\n') WITH ORDINALITY AS lines (line, place),
                       string_to_array(lines.line, E'\t', '\N') AS f) AS told
         WHERE told.decided_at >= ad_event_first_day()::timestamp AT TIME ZONE 'UTC'
         ORDER BY told.decision, told.kind, told.kind = 'click' AND told.filtered IS NOT NULL, told.place
        ON CONFLICT DO NOTHING
        RETURNING ad_event.*
    )
    SELECT array_agg(k::ad_event) INTO taken FROM kept AS k;
    IF strpos(E'\n' || events, E'\nclick\t') = 0 THEN
        RETURN taken;
    END IF;
    -- A statement of its own: it sees what somebody whom the first has waited for has counted.
    WITH persons AS MATERIALIZED (
        SELECT DISTINCT ON (f[2]::uuid) f[2]::uuid AS decision, f[4]::timestamptz AS received_at, f[5]::uuid AS uid,
               timestamptz '1970-01-01 00:00:00+00' + f[3]::bigint * interval '1 millisecond' AS decided_at
          FROM string_to_table(events, E'\n') WITH ORDINALITY AS lines (line, place),
               string_to_array(lines.line, E'\t', '\N') AS f
         WHERE f[1] = 'click' AND f[13] IS NULL
         ORDER BY f[2]::uuid, lines.place
    ), given_way AS (
        UPDATE ad_event AS e
           SET filtered = NULL, received_at = p.received_at, uid = p.uid
          FROM persons AS p
         WHERE (e.decision, e.kind, e.decided_at) = (p.decision, 'click', p.decided_at)
           AND e.filtered LIKE 'bot: %'
        RETURNING e.*
    ), undone AS (
        INSERT INTO rollup_delta (hours, zones, campaigns, creatives, countries, devices, filtered, clicks)
        SELECT array_agg(extract(epoch FROM utc_hour(g.decided_at))::bigint / 3600), array_agg(g.zone_id),
               array_agg(g.campaign_id), array_agg(g.creative_id), array_agg(g.country), array_agg(g.device),
               array_agg(true), array_agg(-1)
          FROM given_way AS g
        HAVING count(*) > 0
    )
    SELECT array_agg(g::ad_event) INTO freed FROM given_way AS g;
    RETURN CASE WHEN freed IS NULL THEN taken ELSE taken || freed END;
END
$$;

-- Mark those of these events that are beyond their campaigns' goals, and return all of them as they are then.
-- The guards are held from here to the end of the transaction, so nobody else counts for these campaigns
-- meanwhile; the statements behind the lock see what the last holder has counted.
CREATE FUNCTION ad_event_guard(events ad_event[]) RETURNS ad_event[]
    LANGUAGE plpgsql VOLATILE
    SET search_path FROM CURRENT
AS $$
DECLARE
    campaigns integer[];
    beyond    uuid[];
BEGIN
    SELECT array_agg(DISTINCT c.id ORDER BY c.id) INTO campaigns
      FROM unnest(events) AS e
      JOIN campaign AS c ON c.id = e.campaign_id AND c.goal_kind = e.kind || 's'
     WHERE e.filtered IS NULL;
    IF campaigns IS NULL THEN
        RETURN events;
    END IF;
    INSERT INTO delivery_guard (campaign_id) SELECT unnest(campaigns) ON CONFLICT DO NOTHING;
    PERFORM FROM delivery_guard WHERE campaign_id = ANY (campaigns) ORDER BY campaign_id FOR UPDATE;
    WITH had AS (
        SELECT d.campaign_id, d.day, CASE c.goal_kind WHEN 'clicks' THEN d.clicks ELSE d.impressions END AS n
          FROM delivery_day AS d
          JOIN campaign     AS c ON c.id = d.campaign_id
         WHERE d.campaign_id = ANY (campaigns)
    ), counted AS (
        SELECT e.decision, e.received_at, c.id, c.goal_total,
               coalesce(c.goal_daily >= row_number() OVER (PARTITION BY c.id, day ORDER BY e.received_at, e.decision)
                        + coalesce((SELECT had.n FROM had WHERE had.campaign_id = c.id AND had.day = days.day), 0),
                        true) AS within_day
          FROM unnest(events) AS e
          JOIN campaign AS c ON c.id = e.campaign_id AND c.goal_kind = e.kind || 's',
               LATERAL (SELECT (e.decided_at AT TIME ZONE c.time_zone)::date AS day) AS days
         WHERE e.filtered IS NULL
    ), judged AS (
        SELECT decision, within_day AND coalesce(
                   goal_total >= row_number() OVER (PARTITION BY id, within_day ORDER BY received_at, decision)
                   + coalesce((SELECT sum(had.n) FROM had WHERE had.campaign_id = counted.id), 0), true) AS fits
          FROM counted
    )
    SELECT array_agg(decision) INTO beyond FROM judged WHERE NOT fits;
    IF beyond IS NULL THEN
        RETURN events;
    END IF;
    WITH marked AS (
        UPDATE ad_event AS a SET filtered = 'over goal'
          FROM unnest(events) AS e
          JOIN campaign AS c ON c.id = e.campaign_id AND c.goal_kind = e.kind || 's'
         WHERE e.decision = ANY (beyond) AND e.filtered IS NULL
           AND (a.decision, a.kind, a.decided_at) = (e.decision, e.kind, e.decided_at)
        RETURNING a.*
    ), others AS (
        SELECT e.* FROM unnest(events) AS e
         WHERE NOT EXISTS (SELECT FROM marked WHERE marked.decision = e.decision AND marked.kind = e.kind)
    ), together AS (
        SELECT * FROM marked UNION ALL SELECT * FROM others
    )
    SELECT array_agg(t::ad_event) INTO events FROM together AS t;
    RETURN events;
END
$$;

-- Attribute these conversions, as far as it is known to what: the click that one names; else the user's last
-- click on an ad of this advertiser; else the last ad of this advertiser that the user has seen. Returns those that
-- are attributed now and were not.
CREATE FUNCTION conversion_attribute(wanted conversion[], click_window interval, view_window interval)
    RETURNS conversion[]
    LANGUAGE plpgsql VOLATILE
    SET search_path FROM CURRENT
AS $$
DECLARE
    attributed conversion[];
BEGIN
    WITH done AS (
        UPDATE conversion AS v
           SET decision = found.decision, attributed_to = found.how, decided_at = found.decided_at,
               zone_id = found.zone_id, campaign_id = found.campaign_id, creative_id = found.creative_id,
               price_micros = found.price_micros, price_model = found.price_model,
               country = found.country, device = found.device
          FROM unnest(wanted) AS w,
               LATERAL (
                SELECT candidate.*
                  FROM (
                    (SELECT 1 AS rank, 'click' AS how, e.*
                       FROM ad_event AS e
                       JOIN campaign AS c ON c.id = e.campaign_id AND c.advertiser_id = w.advertiser_id
                      WHERE e.decision = w.named AND e.kind = 'click' AND e.decided_at = uuid_time(w.named)
                        AND e.filtered IS NULL
                        AND e.received_at BETWEEN w.received_at - click_window AND w.received_at)
                    UNION ALL
                    (SELECT CASE e.kind WHEN 'click' THEN 2 ELSE 3 END,
                            CASE e.kind WHEN 'click' THEN 'click' ELSE 'view' END, e.*
                       FROM ad_event AS e
                       JOIN campaign AS c ON c.id = e.campaign_id AND c.advertiser_id = w.advertiser_id
                      WHERE e.uid = w.uid AND e.kind IN ('click', 'impression')
                        AND e.filtered IS NULL
                        AND e.received_at BETWEEN w.received_at - CASE e.kind WHEN 'click' THEN click_window
                                                                              ELSE view_window END
                                              AND w.received_at
                      ORDER BY 1, e.received_at DESC, e.decision DESC
                      LIMIT 1)
                  ) AS candidate
                 ORDER BY candidate.rank
                 LIMIT 1
               ) AS found
         WHERE v.advertiser_id = w.advertiser_id AND v.order_id = w.order_id AND v.decision IS NULL
        RETURNING v.*
    )
    SELECT array_agg(d::conversion) INTO attributed FROM done AS d;
    RETURN attributed;
END
$$;

-- Once a minute: a conversion may have been told of before the click that it follows, by another worker. Meanwhile
-- it is attributed to nothing, or to another ad that the user has seen or clicked.
CREATE FUNCTION conversion_catch_up(since interval, click_window interval, view_window interval) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
DECLARE
    waiting    conversion[];
    attributed conversion[];
BEGIN
    PERFORM read_committed_only('conversion_catch_up');
    -- Those that went to another ad because the click which they name was not there yet are nobody's again, and
    -- taken out of the sums. What was filtered because that ad's decision is, is not for that reason any more.
    WITH wrong AS MATERIALIZED (
        SELECT v.* FROM conversion AS v
         WHERE v.decision <> v.named AND v.received_at > now() - since
           AND EXISTS (SELECT FROM ad_event AS e
                         JOIN campaign AS c ON c.id = e.campaign_id AND c.advertiser_id = v.advertiser_id
                        WHERE e.decision = v.named AND e.kind = 'click' AND e.decided_at = uuid_time(v.named)
                          AND e.filtered IS NULL
                          AND e.received_at BETWEEN v.received_at - click_window AND v.received_at)
         ORDER BY v.advertiser_id, v.order_id
           FOR UPDATE OF v
    ), undone AS (
        UPDATE conversion AS v
           SET decision = NULL, attributed_to = NULL, decided_at = NULL, filtered = nullif(v.filtered, 'decision')
          FROM wrong AS w
         WHERE (v.advertiser_id, v.order_id) = (w.advertiser_id, w.order_id)
    )
    INSERT INTO rollup_delta (hours, zones, campaigns, creatives, countries, devices, filtered,
                              conversions, value_micros, spend_nanos)
    SELECT array_agg(extract(epoch FROM utc_hour(w.decided_at))::bigint / 3600), array_agg(w.zone_id),
           array_agg(w.campaign_id), array_agg(w.creative_id), array_agg(w.country), array_agg(w.device),
           array_agg(w.filtered IS NOT NULL), array_agg(-1), array_agg(-w.value_micros),
           array_agg(CASE WHEN w.filtered IS NULL
                          THEN -ad_spend_nanos('conversion', w.price_model, w.price_micros) ELSE 0 END)
      FROM wrong AS w
    HAVING count(*) > 0;
    SELECT array_agg(v) INTO waiting
      FROM (SELECT * FROM conversion WHERE decision IS NULL AND received_at > now() - since
             ORDER BY advertiser_id, order_id FOR UPDATE) AS v;
    IF waiting IS NOT NULL THEN
        attributed := conversion_attribute(waiting, click_window, view_window);
    END IF;
    IF attributed IS NOT NULL THEN
        PERFORM rollup_add('', NULL, attributed);
    END IF;
    RETURN coalesce(cardinality(attributed), 0);
END
$$;

COMMENT ON FUNCTION conversion_catch_up(interval, interval, interval) IS
    'Attributes conversions that came before the click they follow.';

-- The orders (advertiser, order, received, value, uid, named decision, filtered; lines of COPY) that nobody has
-- told of before.
CREATE FUNCTION conversion_take(conversions text) RETURNS conversion[]
    LANGUAGE plpgsql VOLATILE
    SET search_path FROM CURRENT
AS $$
DECLARE
    taken conversion[];
BEGIN
    WITH kept AS (
        INSERT INTO conversion (advertiser_id, order_id, received_at, value_micros, uid, named, filtered)
        SELECT f[1]::integer, journal_unescape(f[2]), f[3]::timestamptz, f[4]::bigint, f[5]::uuid, f[6]::uuid,
               journal_unescape(f[7])
          FROM string_to_table(conversions, E'\n') WITH ORDINALITY AS lines (line, place),
               string_to_array(lines.line, E'\t', '\N') AS f
         ORDER BY 1, 2, lines.place
        ON CONFLICT DO NOTHING
        RETURNING conversion.*
    )
    SELECT array_agg(k::conversion) INTO taken FROM kept AS k;
    RETURN taken;
END
$$;

-- Count what these campaigns have had: decisions that used a lease (campaign, its day, minute since 1970, how
-- many; lines of COPY) and events. A goal may be set when a campaign has run for a while, so all of them count.
CREATE FUNCTION delivery_add(leased text, events ad_event[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path FROM CURRENT
AS $$
BEGIN
    -- An impression, billed or not, is the end of a decision's being open.
    INSERT INTO delivery_minute AS m (campaign_id, minute, day, decisions, impressions)
    SELECT told.campaign_id, told.minute, told.day, sum(told.decisions), sum(told.impressions)
      FROM (SELECT f[1]::integer AS campaign_id, f[2]::date AS day,
                   timestamptz '1970-01-01 00:00:00+00' + f[3]::integer * interval '1 minute' AS minute,
                   f[4]::integer AS decisions, 0 AS impressions
              FROM string_to_table(nullif(delivery_add.leased, ''), E'\n') AS line,
                   string_to_array(line, E'\t') AS f
            UNION ALL
            SELECT c.id, (e.decided_at AT TIME ZONE c.time_zone)::date, date_trunc('minute', e.decided_at), 0, 1
              FROM unnest(delivery_add.events) AS e
              JOIN campaign AS c ON c.id = e.campaign_id AND c.goal_kind IS NOT NULL
             WHERE e.kind = 'impression') AS told
     GROUP BY 1, 2, 3
     ORDER BY 1, 2, 3
    ON CONFLICT (campaign_id, minute, day) DO UPDATE
       SET decisions   = m.decisions   + excluded.decisions,
           impressions = m.impressions + excluded.impressions;
    INSERT INTO delivery_day AS d (campaign_id, day, decisions, impressions, clicks)
    SELECT told.campaign_id, told.day, sum(told.decisions), sum(told.impressions), sum(told.clicks)
      FROM (SELECT f[1]::integer AS campaign_id, f[2]::date AS day,
                   f[4]::integer AS decisions, 0 AS impressions, 0 AS clicks
              FROM string_to_table(nullif(delivery_add.leased, ''), E'\n') AS line,
                   string_to_array(line, E'\t') AS f
            UNION ALL
            SELECT c.id, (e.decided_at AT TIME ZONE c.time_zone)::date, 0,
                   (e.kind = 'impression')::integer, (e.kind = 'click')::integer
              FROM unnest(delivery_add.events) AS e
              JOIN campaign AS c ON c.id = e.campaign_id
             WHERE e.filtered IS NULL AND e.kind IN ('impression', 'click')) AS told
     GROUP BY 1, 2
     ORDER BY 1, 2
    ON CONFLICT (campaign_id, day) DO UPDATE
       SET decisions   = d.decisions   + excluded.decisions,
           impressions = d.impressions + excluded.impressions,
           clicks      = d.clicks      + excluded.clicks;
END
$$;

-- Everything that a batch of lines says about ads, in the transaction that puts the lines in request_log. The texts
-- are '' where there is nothing to say. SECURITY DEFINER: a serving role ships lines and can change no sum itself.
CREATE FUNCTION ad_ingest(holder text, decisions text, leased text, seen text, events text, conversions text,
                          click_window interval, view_window interval) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
DECLARE
    fresh     ad_event[];
    converted conversion[];
BEGIN
    PERFORM read_committed_only('ad_ingest');
    IF events <> '' THEN
        fresh := ad_event_take(events);
    END IF;
    IF fresh IS NOT NULL THEN
        fresh := ad_event_guard(fresh);
    END IF;
    IF conversions <> '' THEN
        converted := conversion_take(conversions);
        IF converted IS NOT NULL THEN
            converted := conversion_attribute(converted, click_window, view_window);
        END IF;
    END IF;
    IF leased <> '' THEN
        PERFORM lease_used(holder, array_agg(f[1]::integer), array_agg(f[2]::date), array_agg(f[4]::integer))
           FROM string_to_table(leased, E'\n') AS line, string_to_array(line, E'\t') AS f;
    END IF;
    IF seen <> '' THEN
        PERFORM user_seen(
                    array_agg(f[1]::uuid), array_agg(f[2]::integer),
                    array_agg(timestamptz '1970-01-01 00:00:00+00' + f[4]::bigint * interval '1 millisecond'),
                    array_agg(f[3]::uuid))
           FROM string_to_table(seen, E'\n') AS line, string_to_array(line, E'\t') AS f;
    END IF;
    IF leased <> '' OR fresh IS NOT NULL THEN
        PERFORM delivery_add(leased, fresh);
    END IF;
    IF decisions <> '' OR fresh IS NOT NULL OR converted IS NOT NULL THEN
        PERFORM rollup_add(decisions, fresh, converted);
    END IF;
END
$$;

COMMENT ON FUNCTION ad_ingest(text, text, text, text, text, text, interval, interval) IS
    'Takes what a batch of event lines says about ads: events once, and all sums.';

-- Is it true? -----------------------------------------------------------------------------------------------

-- The rollup of these hours, computed from what it is the sum of. A decision's line stands in request_log under
-- the time of its request, which can differ from its id's where a clock was put back: a day either way is read.
CREATE FUNCTION rollup_from_raw(first_hour timestamptz, end_hour timestamptz) RETURNS SETOF rollup_hour
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
AS $$
    SELECT utc_hour(told.at), told.zone_id, told.campaign_id, told.creative_id, told.country, told.device,
           told.filtered IS NOT NULL,
           sum(told.requests)::bigint,
           sum(CASE WHEN told.campaign_id > 0 THEN told.requests ELSE 0 END)::bigint,
           (count(*) FILTER (WHERE told.kind = 'impression')),
           (count(*) FILTER (WHERE told.kind = 'viewable')),
           (count(*) FILTER (WHERE told.kind = 'click')),
           (count(*) FILTER (WHERE told.kind = 'conversion')),
           sum(told.value_micros)::bigint,
           sum(CASE WHEN told.filtered IS NULL
                    THEN ad_spend_nanos(told.kind, told.price_model, told.price_micros) ELSE 0 END)::bigint
      FROM (
        SELECT uuid_time(l.id) AS at, (l.params #>> '{decision,zone}')::integer AS zone_id,
               coalesce((l.params #>> '{decision,campaign}')::integer, 0) AS campaign_id,
               coalesce((l.params #>> '{decision,creative}')::integer, 0) AS creative_id,
               coalesce(l.params #>> '{decision,country}', '') AS country,
               coalesce(l.params #>> '{decision,device}', '') AS device,
               l.params #>> '{decision,filtered}' AS filtered,
               1 AS requests, l.endpoint AS kind, '' AS price_model, 0::bigint AS price_micros,
               0::bigint AS value_micros
          FROM request_log AS l
         WHERE l.endpoint = 'decision'
           AND l.time >= first_hour - interval '1 day' AND l.time < end_hour + interval '1 day'
           AND uuid_time(l.id) >= first_hour AND uuid_time(l.id) < end_hour
        UNION ALL
        SELECT e.decided_at, e.zone_id, e.campaign_id, e.creative_id, e.country, e.device, e.filtered,
               0, e.kind, e.price_model, e.price_micros, 0
          FROM ad_event AS e
         WHERE e.decided_at >= first_hour AND e.decided_at < end_hour
        UNION ALL
        SELECT c.decided_at, c.zone_id, c.campaign_id, c.creative_id, c.country, c.device, c.filtered,
               0, 'conversion', c.price_model, c.price_micros, c.value_micros
          FROM conversion AS c
         WHERE c.decided_at >= first_hour AND c.decided_at < end_hour
      ) AS told
     GROUP BY 1, 2, 3, 4, 5, 6, 7
$$;

COMMENT ON FUNCTION rollup_from_raw(timestamptz, timestamptz) IS 'The rollup of these hours, from the raw tables.';

-- Where the rollup of these hours differs from the raw tables: both rows of each difference, or one where the
-- other is missing. Nothing, in every snapshot.
CREATE FUNCTION rollup_check(first_hour timestamptz, end_hour timestamptz)
    RETURNS TABLE (source text, difference rollup_hour)
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
AS $$
    WITH raw AS MATERIALIZED (
        SELECT * FROM rollup_from_raw(first_hour, end_hour)
    ), sums AS MATERIALIZED (
        SELECT * FROM rollup_hour WHERE hour >= first_hour AND hour < end_hour
    )
    (SELECT 'raw', r::rollup_hour FROM (SELECT * FROM raw EXCEPT ALL SELECT * FROM sums) AS r)
    UNION ALL
    (SELECT 'rollup', s::rollup_hour FROM (SELECT * FROM sums EXCEPT ALL SELECT * FROM raw) AS s)
$$;

COMMENT ON FUNCTION rollup_check(timestamptz, timestamptz) IS 'Where rollup_hour differs from the raw tables: nowhere.';

-- As in 002: functions that act with their owner's rights are nobody's by default, nor are their parts.
REVOKE EXECUTE ON FUNCTION ad_event_ensure(date, date) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION ad_event_drop_before(date) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION request_log_summarize(date, date) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION conversion_catch_up(interval, interval, interval) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION rollup_fold(integer) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION rollup_add(text, ad_event[], conversion[]) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION ad_event_take(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION ad_event_guard(ad_event[]) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION conversion_attribute(conversion[], interval, interval) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION conversion_take(text) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION delivery_add(text, ad_event[]) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION ad_ingest(text, text, text, text, text, text, interval, interval) FROM PUBLIC;

COMMENT ON TABLE user_segment IS 'Which users are in which segments.';
COMMENT ON TABLE delivery_guard IS 'A row for each campaign with a goal: the lock of whoever bills its last impressions.';
COMMENT ON FUNCTION read_committed_only(text) IS 'Refuses to go on in a transaction whose snapshot is older than its locks.';
COMMENT ON FUNCTION uuid_time(uuid) IS 'When a uuid of version 7 was made.';
COMMENT ON FUNCTION utc_hour(timestamptz) IS 'The hour of a moment, in UTC.';
COMMENT ON FUNCTION ad_spend_nanos(text, text, bigint) IS 'What an event costs, in billionths of the currency.';
COMMENT ON FUNCTION ad_event_first_day() IS 'The first day whose events are kept.';
COMMENT ON FUNCTION ad_event_take(text) IS 'Part of ad_ingest: inserts events that are new.';
COMMENT ON FUNCTION ad_event_guard(ad_event[]) IS 'Part of ad_ingest: marks what is beyond a goal.';
COMMENT ON FUNCTION conversion_take(text) IS 'Part of ad_ingest: inserts conversions that are new.';
COMMENT ON FUNCTION conversion_attribute(conversion[], interval, interval) IS 'Finds what conversions are due to.';
COMMENT ON FUNCTION delivery_add(text, ad_event[]) IS 'Part of ad_ingest: what campaigns have had, by day and minute.';
COMMENT ON FUNCTION rollup_add(text, ad_event[], conversion[]) IS 'Part of ad_ingest: adds a batch to the rollup.';
