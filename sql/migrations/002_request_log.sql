-- The request log: one row per request, append-only, one partition per UTC day.
--
-- No index, and no primary key: a log is written a hundred thousand rows a second and read by day, and
-- every index would cost more than all else in the insert. A day is a partition, so reading a day
-- scans that day only, and forgetting one is DROP TABLE instead of a DELETE that leaves its dead
-- behind. The uuid is version 7 and made by the worker, so it tells rows apart and sorts by time; that
-- it is unique is the writer's promise (each line is shipped once), not an index's.
--
-- Column order: the two fixed-length columns first (8 and 16 bytes, no padding between them), then
-- those that are never null, then those that may be. Eight columns need one byte of null bitmap, and
-- that byte fits where the row header pads anyway: null costs nothing.
CREATE TABLE request_log (
    time       timestamptz NOT NULL,
    id         uuid        NOT NULL,
    endpoint   text        NOT NULL,
    params     jsonb       NOT NULL,
    user_agent text,
    referer    text,
    address    inet,
    language   text
) PARTITION BY RANGE (time);

COMMENT ON TABLE request_log IS 'Every request that was answered, one partition per UTC day.';

-- Settings that functions inside the database must know, whoever calls them.
CREATE TABLE server_setting (
    name  text PRIMARY KEY,
    value text NOT NULL,
    CONSTRAINT server_setting_log_table CHECK (name <> 'log_table' OR value IN ('logged', 'unlogged'))
);

INSERT INTO server_setting (name, value) VALUES ('log_table', 'logged');

COMMENT ON TABLE server_setting IS 'Settings that functions in this database read.';

-- Undo the escapes of one field of COPY's text format, for lines that are split by string_to_array and
-- not by COPY: \\ is a backslash, \t \n \r are tab, newline, carriage return. NULL stays NULL.
--
-- Replacing the four one after the other would be wrong, for \\n is a backslash and an n. Pairs of
-- backslashes must be taken first and be kept apart from what the other escapes leave. A character
-- that no escaped field can hold keeps them apart: the newline, which ends the line.
--   1. \\ becomes a raw newline; every backslash that is left now begins \t, \r or \n;
--   2. \t and \r become what they stand for; every backslash that is left now begins \n;
--   3. \n becomes a single backslash; 4. translate swaps: newline to backslash, backslash to newline.
--
-- Splitting on \\ into an array and joining it again does the same, but needs a subquery, and
-- PostgreSQL inlines only functions without one. Inlined, a field without a backslash (nearly all of
-- them) costs a strpos and no function call. STRICT would forbid inlining too, as CASE is not strict;
-- NULL takes the ELSE branch and comes out as NULL.
CREATE FUNCTION journal_unescape(field text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN strpos(field, E'\\') > 0
    THEN translate(
        replace(replace(replace(replace(field,
            E'\\\\', E'\n'),
            E'\\t', E'\t'),
            E'\\r', E'\r'),
            E'\\n', E'\\'),
        E'\n\\', E'\\\n')
    ELSE field END;

COMMENT ON FUNCTION journal_unescape(text) IS 'Undoes the escapes of one field of COPY''s text format.';

-- Create the partitions of these days that are missing, and return how many that were.
--
-- Called by every worker and by the keeper, mostly to find that there is nothing to do, so the common
-- case only looks names up and takes no lock. When something is missing, callers take turns and look
-- again: twenty workers at midnight make one partition and nobody gets an error.
--
-- They take turns by a lock on request_log and not by an advisory one, though that would be weaker: a
-- session that has waited for an advisory lock still has its old picture of which tables exist
-- (a table lock brings it up to date), finds no partition and fails to make it a second time.
--
-- CREATE TABLE … PARTITION OF would take ACCESS EXCLUSIVE on request_log and stand behind the longest
-- running report, with every insert queued behind it. CREATE TABLE plus ATTACH takes SHARE UPDATE
-- EXCLUSIVE, which inserts and reports do not notice, and which is the lock we take turns by. ONLY:
-- the partitions need no lock.
--
-- Autovacuum is off: there are no dead rows to collect, and what freezing a closed day needs is done
-- once, by the keeper, when the day is over, rather than by a wraparound vacuum at noon.
--
-- SECURITY DEFINER lets a serving role that owns nothing have partitions made. The search path is
-- the one this migration runs with (our schema, then pg_temp), so that nobody can slip a table in.
CREATE FUNCTION request_log_ensure(first_day date, last_day date) RETURNS integer
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
AS $$
DECLARE
    day       date;
    partition text;
    kind      text;
    made      integer := 0;
BEGIN
    IF last_day - first_day NOT BETWEEN 0 AND 366 THEN
        RAISE EXCEPTION 'request_log_ensure: % to % is not a range of 1 to 367 days', first_day, last_day
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR day IN SELECT first_day + offs FROM generate_series(0, last_day - first_day) AS offs LOOP
        partition := 'request_log_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        LOCK TABLE ONLY request_log IN SHARE UPDATE EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        SELECT CASE value WHEN 'unlogged' THEN 'UNLOGGED' ELSE '' END INTO kind
            FROM server_setting WHERE name = 'log_table';
        EXECUTE format(
            'CREATE %s TABLE %I (LIKE request_log INCLUDING ALL)
                 WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)',
            coalesce(kind, ''), partition);
        -- Bounds with their zone written out: a day is the same day whatever TimeZone the session has.
        EXECUTE format(
            'ALTER TABLE request_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            partition,
            to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00',
            to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

COMMENT ON FUNCTION request_log_ensure(date, date) IS 'Creates missing daily partitions of request_log.';

-- The partitions and their days, as the keeper and reports want them.
CREATE VIEW request_log_partition AS
SELECT c.oid::regclass                                               AS partition,
       c.relnamespace::regnamespace::name                            AS schema,
       c.relname                                                     AS name,
       c.relowner                                                    AS owner,
       to_date(right(c.relname, 8), 'YYYYMMDD')                      AS day,
       CASE c.relpersistence WHEN 'u' THEN 'unlogged' ELSE 'logged' END AS log_table,
       c.relpages, c.reltuples, c.relallvisible
  FROM pg_inherits AS i
  JOIN pg_class    AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'request_log'::regclass
   AND c.relname ~ '^request_log_[0-9]{8}$';

COMMENT ON VIEW request_log_partition IS 'The daily partitions of request_log.';

-- Drop the partitions of days before this one, and return their names.
--
-- Dropping a partition needs ACCESS EXCLUSIVE on request_log for a moment. Behind a long report that
-- moment would never come and every insert would wait with us, so we wait a fifth of a second at most
-- and fail (55P03, lock_not_available); the keeper tries again in a minute. DETACH … CONCURRENTLY
-- waits without blocking anyone, but cannot run in a function, which a serving role without ownership
-- needs.
CREATE FUNCTION request_log_drop_before(first_kept date) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
    SET lock_timeout = '200ms'
AS $$
DECLARE
    old record;
BEGIN
    FOR old IN SELECT schema, name FROM request_log_partition WHERE day < first_kept ORDER BY day LOOP
        EXECUTE format('DROP TABLE %I.%I', old.schema, old.name);
        RETURN NEXT old.name;
    END LOOP;
END
$$;

COMMENT ON FUNCTION request_log_drop_before(date) IS 'Retention: drops daily partitions older than this day.';

-- Store whether partitions are to be logged, convert those from this day on that differ, and return
-- the names of the converted. Days before are left alone: they are not written any more, and
-- converting rewrites the whole table.
--
-- The lock is the one of request_log_ensure, so that no partition is made by the old setting after we
-- looked.
CREATE FUNCTION request_log_persistence(wanted text, first_day date) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path FROM CURRENT
    SET lock_timeout = '5s'
AS $$
DECLARE
    differing record;
BEGIN
    IF wanted NOT IN ('logged', 'unlogged') THEN
        RAISE EXCEPTION 'log_table is "logged" or "unlogged", not "%"', wanted
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE ONLY request_log IN SHARE UPDATE EXCLUSIVE MODE;
    INSERT INTO server_setting (name, value) VALUES ('log_table', wanted)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value
            WHERE server_setting.value <> excluded.value;
    FOR differing IN
        SELECT schema, name FROM request_log_partition
         WHERE day >= first_day AND log_table <> wanted ORDER BY day
    LOOP
        EXECUTE format('ALTER TABLE %I.%I SET %s', differing.schema, differing.name, upper(wanted));
        RETURN NEXT differing.name;
    END LOOP;
END
$$;

COMMENT ON FUNCTION request_log_persistence(text, date) IS 'Stores the log_table setting and applies it from this day on.';

-- These functions act with their owner's rights, so nobody has them by default; docs/database.md
-- shows what to grant to a serving role.
REVOKE EXECUTE ON FUNCTION request_log_ensure(date, date) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION request_log_drop_before(date) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION request_log_persistence(text, date) FROM PUBLIC;
