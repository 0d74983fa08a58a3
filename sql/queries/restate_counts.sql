-- How much changes: decisions and events that are not counted any more, and those that are again.
SELECT (SELECT count(*) FROM restate_decision WHERE filtered IS NOT NULL),
       (SELECT count(*) FROM restate_decision WHERE filtered IS NULL),
       (SELECT count(*) FROM restate_event WHERE filtered IS NOT NULL),
       (SELECT count(*) FROM restate_event WHERE filtered IS NULL)
