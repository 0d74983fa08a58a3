-- The catalog: who advertises what, where, to whom and for how much.
--
-- Workers never query these tables for a request. Each holds the whole catalog in memory and is told of
-- every change, so what matters here is that nonsense is refused, that history is kept, and that a change
-- can be followed.
--
-- **Keys and ids.** People name things by `key`, which is what the catalog's files use. Events and rollups
-- refer to things by `id`, a small integer that is never given twice. Nothing that events may refer to is
-- deleted: it is archived.
--
-- **Versions.** Every transaction that changes the catalog gets one version, the next one, whoever makes it
-- and by whatever means: triggers do it. `catalog_change` holds each row as it was from each version on, so it is
-- at once the way workers follow changes, the way a host loads the whole catalog, and the way a
-- decision of last week is replayed against the catalog of last week. The row of `catalog_state` stays
-- locked until the transaction ends, so versions become visible in their order and none is missed.

-- Whether PostgreSQL knows this time zone by its name in the world's list. It would also take abbreviations
-- ("CEST", which is half a zone) and rules ("XYZ-3"), of which programs elsewhere know nothing. IMMUTABLE is a
-- small lie (the list grows with releases), told so that it may stand in a constraint.
CREATE FUNCTION is_time_zone(name text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
    PERFORM timestamptz '2000-01-01 00:00:00+00' AT TIME ZONE name;
    RETURN name IN ('UTC', 'GMT') OR name ~ '^[A-Z][A-Za-z_]*/[A-Za-z0-9_+/-]+$';
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END
$$;

-- An address with a host that stands there: no user in front of it and no macro in it, which would let whoever
-- fills the macro choose where it leads. Macros may stand behind the host.
CREATE FUNCTION is_web_url(url text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN octet_length(url) <= 4000
   AND url ~ '^https?://([^]\s/?#"<>\\@%{}:[[:cntrl:]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?#][^\s"<>\\[:cntrl:]]*)?$';

-- A file that this program serves itself. Two slashes would be another host.
CREATE FUNCTION is_own_path(url text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN octet_length(url) <= 4000
   AND url ~ '^/[^\s/?#"<>\\[:cntrl:]][^\s"<>\\[:cntrl:]]*$';

-- A plain list without repetition and without nulls.
CREATE FUNCTION is_plain_set(list text[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN coalesce(array_ndims(list), 1) = 1
   AND cardinality(list) = (SELECT count(DISTINCT one) FROM unnest(list) AS one);

-- What people call a thing in files and on the command line.
CREATE DOMAIN catalog_key AS text
    CHECK (VALUE ~ '^[a-z0-9][a-z0-9._-]{0,99}$');

-- What people read. One line, and something to see on it.
CREATE DOMAIN catalog_name AS text
    CHECK (octet_length(VALUE) <= 400 AND VALUE ~ '[^\s[:cntrl:]]' AND VALUE !~ '[[:cntrl:]]');

CREATE TABLE advertiser (
    id           integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key          catalog_key NOT NULL UNIQUE,
    name         catalog_name NOT NULL,
    status       text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'archived')),
    -- Several of its ads may stand on one page.
    allow_repeat boolean     NOT NULL DEFAULT false,
    -- Most ads a person is shown, of all its campaigns together.
    cap_hour     smallint    CHECK (cap_hour > 0),
    cap_day      smallint    CHECK (cap_day > 0),
    cap_flight   integer     CHECK (cap_flight > 0)
);

CREATE TABLE site (
    id     integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key    catalog_key NOT NULL UNIQUE,
    name   catalog_name NOT NULL,
    domain text        NOT NULL CHECK (domain ~ '^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?(:[0-9]{1,5})?$'),
    status text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'archived'))
);

CREATE TABLE zone (
    id           integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key          catalog_key NOT NULL UNIQUE,
    site_id      integer     NOT NULL REFERENCES site,
    name         catalog_name NOT NULL,
    status       text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'archived')),
    -- "300x250". A zone for native ads alone has none.
    sizes        text[]      NOT NULL DEFAULT '{}',
    formats      text[]      NOT NULL DEFAULT '{html,image}',
    -- The least a thousand impressions must bring, in millionths of the currency. Campaigns that pay by click
    -- or conversion promise nothing for an impression, so a zone with a floor does not take them; house ads
    -- need not pay.
    floor_micros bigint      NOT NULL DEFAULT 0 CHECK (floor_micros BETWEEN 0 AND 1000000000000),
    -- When nothing that pays fits: a house ad, or nothing at all.
    fallback     text        NOT NULL DEFAULT 'house' CHECK (fallback IN ('house', 'none')),
    CONSTRAINT zone_sizes CHECK (
        array_to_string(sizes, ',', '?') ~ '^([1-9][0-9]{0,3}x[1-9][0-9]{0,3}(,[1-9][0-9]{0,3}x[1-9][0-9]{0,3})*)?$'),
    CONSTRAINT zone_formats CHECK (formats <@ '{html,image,native}' AND cardinality(formats) > 0),
    CONSTRAINT zone_repeats CHECK (is_plain_set(sizes) AND is_plain_set(formats)),
    CONSTRAINT zone_sizes_few CHECK (cardinality(sizes) <= 100),
    CONSTRAINT zone_sizes_for_formats CHECK (cardinality(sizes) > 0 OR formats = '{native}')
);

-- Sets of users that campaigns can aim at.
CREATE TABLE segment (
    id     integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key    catalog_key NOT NULL UNIQUE,
    name   catalog_name NOT NULL,
    status text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'archived'))
);

CREATE TABLE campaign (
    id            integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key           catalog_key NOT NULL UNIQUE,
    advertiser_id integer     NOT NULL REFERENCES advertiser,
    name          catalog_name NOT NULL,
    status        text        NOT NULL DEFAULT 'active' CHECK (status IN ('draft', 'active', 'paused', 'archived')),
    tier          text        NOT NULL DEFAULT 'standard'
                              CHECK (tier IN ('sponsorship', 'guaranteed', 'standard', 'house')),
    weight        smallint    NOT NULL DEFAULT 100 CHECK (weight BETWEEN 1 AND 1000),
    -- The flight. Half open: it runs from starts_at up to, and not at, ends_at. Null has no limit.
    starts_at     timestamptz,
    ends_at       timestamptz,
    -- What a day and an hour are to this campaign: for its daily goal, its caps and its schedule.
    time_zone     text        NOT NULL DEFAULT 'UTC' CHECK (is_time_zone(time_zone)),
    goal_kind     text        CHECK (goal_kind IN ('impressions', 'clicks')),
    goal_total    bigint      CHECK (goal_total BETWEEN 1 AND 1000000000000),
    goal_daily    bigint      CHECK (goal_daily BETWEEN 1 AND 1000000000000),
    pacing        text        NOT NULL DEFAULT 'asap' CHECK (pacing IN ('even', 'asap')),
    price_model   text        NOT NULL DEFAULT 'cpm' CHECK (price_model IN ('cpm', 'cpc', 'cpa')),
    -- For a thousand impressions, a click or a conversion, in millionths of the currency.
    price_micros  bigint      NOT NULL DEFAULT 0 CHECK (price_micros BETWEEN 0 AND 1000000000000),
    cap_hour      smallint    CHECK (cap_hour > 0),
    cap_day       smallint    CHECK (cap_day > 0),
    cap_flight    integer     CHECK (cap_flight > 0),
    -- Takes all places of a page, or none.
    roadblock     boolean     NOT NULL DEFAULT false,
    -- See docs/catalog.md; its form is checked by whoever writes it, and what is not understood is never served.
    targeting     jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(targeting) = 'object'),
    CONSTRAINT campaign_flight CHECK (starts_at < ends_at),
    -- A year with a digit too many, and "infinity", which no calendar elsewhere knows.
    CONSTRAINT campaign_years CHECK (
        starts_at >= '2000-01-01 00:00:00+00' AND starts_at < '2201-01-01 00:00:00+00'
        AND ends_at >= '2000-01-01 00:00:00+00' AND ends_at < '2201-01-01 00:00:00+00'),
    CONSTRAINT campaign_targeting_size CHECK (octet_length(targeting::text) <= 1000000),
    CONSTRAINT campaign_goal CHECK ((goal_kind IS NULL) = (goal_total IS NULL AND goal_daily IS NULL)),
    CONSTRAINT campaign_goal_daily CHECK (goal_daily <= goal_total),
    -- Nothing can be spread evenly over a time without an end, or without an amount.
    CONSTRAINT campaign_pacing CHECK (
        pacing = 'asap' OR goal_daily IS NOT NULL OR (goal_total IS NOT NULL AND ends_at IS NOT NULL)),
    CONSTRAINT campaign_house CHECK (tier <> 'house' OR price_micros = 0)
);

CREATE INDEX campaign_advertiser ON campaign (advertiser_id);

CREATE TABLE creative (
    id          integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key         catalog_key NOT NULL UNIQUE,
    campaign_id integer     NOT NULL REFERENCES campaign,
    name        catalog_name NOT NULL,
    status      text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'archived')),
    format      text        NOT NULL CHECK (format IN ('html', 'image', 'native')),
    width       smallint    CHECK (width BETWEEN 1 AND 9999),
    height      smallint    CHECK (height BETWEEN 1 AND 9999),
    html        text        CHECK (octet_length(html) BETWEEN 1 AND 200000),
    image_url   text        CHECK (is_web_url(image_url) OR is_own_path(image_url)),
    alt         text        CHECK (octet_length(alt) <= 1000),
    native      jsonb       CHECK (jsonb_typeof(native) = 'object' AND octet_length(native::text) <= 200000),
    -- A click must lead to the web and nowhere else. Macros in braces may stand in path and query.
    click_url   text        NOT NULL CHECK (is_web_url(click_url)),
    weight      smallint    NOT NULL DEFAULT 100 CHECK (weight BETWEEN 1 AND 1000),
    CONSTRAINT creative_size CHECK ((width IS NULL) = (height IS NULL) AND (format = 'native' OR width IS NOT NULL)),
    CONSTRAINT creative_content CHECK (
        (format = 'html') = (html IS NOT NULL)
        AND (format = 'image') = (image_url IS NOT NULL)
        AND (format = 'native') = (native IS NOT NULL))
);

CREATE INDEX creative_campaign ON creative (campaign_id);

-- The version of the last change. One row.
CREATE TABLE catalog_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL CHECK (version >= 0)
);

INSERT INTO catalog_state (version) VALUES (0);

-- Each row as it was from this version on; null: it was deleted.
CREATE TABLE catalog_change (
    version  bigint      NOT NULL,
    relation text        NOT NULL,
    id       integer     NOT NULL,
    content  jsonb,
    at       timestamptz NOT NULL DEFAULT now(),
    by       text        NOT NULL DEFAULT session_user,
    -- By what means, in the words of the program that did it: "ada: catalog apply spring.yaml".
    note     text        DEFAULT nullif(left(current_setting('prefork_ads.note', true), 500), ''),
    PRIMARY KEY (relation, id, version)
);

CREATE INDEX catalog_change_version ON catalog_change (version);

-- The version of this transaction: the next one, taken when it changes the first row. The setting is local
-- to the transaction, and so is the lock on the row; NOTIFY is sent at its commit, once.
CREATE FUNCTION catalog_version() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
DECLARE
    taken text := current_setting('prefork_ads.catalog_version', true);
    mine  bigint;
BEGIN
    -- A version of an earlier transaction is '' again; one that is ours stands with our transaction's number.
    IF taken LIKE pg_current_xact_id()::text || ':%' THEN
        RETURN split_part(taken, ':', 2)::bigint;
    END IF;
    UPDATE catalog_state SET version = version + 1 RETURNING version INTO mine;
    PERFORM set_config('prefork_ads.catalog_version', pg_current_xact_id()::text || ':' || mine, true);
    PERFORM pg_notify('prefork_ads_catalog', mine::text);
    RETURN mine;
END
$$;

-- Wait until nobody else is changing the catalog, and keep everybody else waiting until this transaction
-- ends. It gives the version that is in force.
CREATE FUNCTION catalog_lock() RETURNS bigint
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
    SELECT version FROM catalog_state FOR UPDATE
$$;

CREATE FUNCTION catalog_record() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
DECLARE
    changed integer := CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END;
    now_is  jsonb   := CASE TG_OP WHEN 'DELETE' THEN NULL ELSE to_jsonb(NEW) END;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW IS NOT DISTINCT FROM OLD THEN
        RETURN NULL;
    END IF;
    INSERT INTO catalog_change (version, relation, id, content)
    VALUES (catalog_version(), TG_TABLE_NAME, changed, now_is)
    ON CONFLICT (relation, id, version) DO UPDATE SET content = excluded.content;
    RETURN NULL;
END
$$;

CREATE TRIGGER advertiser_record AFTER INSERT OR UPDATE OR DELETE ON advertiser
    FOR EACH ROW EXECUTE FUNCTION catalog_record();
CREATE TRIGGER site_record AFTER INSERT OR UPDATE OR DELETE ON site
    FOR EACH ROW EXECUTE FUNCTION catalog_record();
CREATE TRIGGER zone_record AFTER INSERT OR UPDATE OR DELETE ON zone
    FOR EACH ROW EXECUTE FUNCTION catalog_record();
CREATE TRIGGER segment_record AFTER INSERT OR UPDATE OR DELETE ON segment
    FOR EACH ROW EXECUTE FUNCTION catalog_record();
CREATE TRIGGER campaign_record AFTER INSERT OR UPDATE OR DELETE ON campaign
    FOR EACH ROW EXECUTE FUNCTION catalog_record();
CREATE TRIGGER creative_record AFTER INSERT OR UPDATE OR DELETE ON creative
    FOR EACH ROW EXECUTE FUNCTION catalog_record();

-- What was counted for a thing would come to mean another if it could be renamed or handed on: reports by
-- advertiser and decisions of last week refer to it.
CREATE FUNCTION catalog_keep() RETURNS trigger
    LANGUAGE plpgsql
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'table % cannot be truncated: the catalog would go without a trace in its history',
            TG_TABLE_NAME USING ERRCODE = 'feature_not_supported', HINT = 'Archive, or DELETE.';
    END IF;
    RAISE EXCEPTION '% % keeps its %: what was counted for it would come to mean another',
        TG_TABLE_NAME, OLD.key, TG_ARGV[0] USING ERRCODE = 'check_violation';
END
$$;

CREATE TRIGGER advertiser_keep BEFORE UPDATE ON advertiser
    FOR EACH ROW WHEN (NEW.key <> OLD.key) EXECUTE FUNCTION catalog_keep('key');
CREATE TRIGGER site_keep BEFORE UPDATE ON site
    FOR EACH ROW WHEN (NEW.key <> OLD.key) EXECUTE FUNCTION catalog_keep('key');
CREATE TRIGGER zone_keep BEFORE UPDATE ON zone
    FOR EACH ROW WHEN (NEW.key <> OLD.key OR NEW.site_id <> OLD.site_id)
    EXECUTE FUNCTION catalog_keep('key and its site');
CREATE TRIGGER segment_keep BEFORE UPDATE ON segment
    FOR EACH ROW WHEN (NEW.key <> OLD.key) EXECUTE FUNCTION catalog_keep('key');
CREATE TRIGGER campaign_keep BEFORE UPDATE ON campaign
    FOR EACH ROW WHEN (NEW.key <> OLD.key OR NEW.advertiser_id <> OLD.advertiser_id)
    EXECUTE FUNCTION catalog_keep('key and its advertiser');
CREATE TRIGGER creative_keep BEFORE UPDATE ON creative
    FOR EACH ROW WHEN (NEW.key <> OLD.key OR NEW.campaign_id <> OLD.campaign_id)
    EXECUTE FUNCTION catalog_keep('key and its campaign');

CREATE TRIGGER advertiser_whole BEFORE TRUNCATE ON advertiser EXECUTE FUNCTION catalog_keep();
CREATE TRIGGER site_whole BEFORE TRUNCATE ON site EXECUTE FUNCTION catalog_keep();
CREATE TRIGGER zone_whole BEFORE TRUNCATE ON zone EXECUTE FUNCTION catalog_keep();
CREATE TRIGGER segment_whole BEFORE TRUNCATE ON segment EXECUTE FUNCTION catalog_keep();
CREATE TRIGGER campaign_whole BEFORE TRUNCATE ON campaign EXECUTE FUNCTION catalog_keep();
CREATE TRIGGER creative_whole BEFORE TRUNCATE ON creative EXECUTE FUNCTION catalog_keep();

-- The catalog as it was at a version: the latest row of each thing up to there.
CREATE FUNCTION catalog_at(wanted bigint)
    RETURNS TABLE (relation text, id integer, content jsonb)
    LANGUAGE sql STABLE
    SET search_path FROM CURRENT
AS $$
    SELECT last.relation, last.id, last.content
      FROM (SELECT DISTINCT ON (c.relation, c.id) c.relation, c.id, c.content
              FROM catalog_change AS c
             WHERE c.version <= wanted
             ORDER BY c.relation, c.id, c.version DESC) AS last
     WHERE last.content IS NOT NULL
$$;

COMMENT ON TABLE catalog_change IS 'The catalog''s history: each row as it was from each version on.';
COMMENT ON FUNCTION catalog_at(bigint) IS 'The whole catalog as it was at a version.';
COMMENT ON FUNCTION catalog_lock() IS 'Waits for the turn to change the catalog; gives the version in force.';
COMMENT ON FUNCTION catalog_version() IS 'The version of this transaction''s changes to the catalog.';
COMMENT ON FUNCTION catalog_record() IS 'Trigger: keeps each row of the catalog as it is from this version on.';
COMMENT ON FUNCTION catalog_keep() IS 'Trigger: refuses what would make counted events mean something else.';
COMMENT ON FUNCTION is_time_zone(text) IS 'Whether this is a time zone by its name, such as Europe/Berlin.';
COMMENT ON FUNCTION is_web_url(text) IS 'Whether this is an address of the web whose host stands in it.';
COMMENT ON FUNCTION is_own_path(text) IS 'Whether this is the path of a file that the server itself has.';
COMMENT ON FUNCTION is_plain_set(text[]) IS 'Whether this is a list without repetition, nulls and further dimensions.';
COMMENT ON TABLE catalog_state IS 'The version of the catalog''s last change. One row.';
COMMENT ON TABLE advertiser IS 'Who advertises.';
COMMENT ON TABLE site IS 'Where ads are shown.';
COMMENT ON TABLE zone IS 'Places on sites: what fits there, and what it must bring.';
COMMENT ON TABLE segment IS 'Sets of users that campaigns can aim at.';
COMMENT ON TABLE campaign IS 'What is to be shown to whom, when, how often and for how much.';
COMMENT ON TABLE creative IS 'What a campaign shows, and where a click leads.';
