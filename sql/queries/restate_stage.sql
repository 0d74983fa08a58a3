-- Where a day's restatement is worked out before anything is touched. Gone with its transaction.
--
-- `restate_bot`: user agents of the day that belong to programs, and the reason as events have it.
-- `restate_decision`: decisions that change. `restate_event`: events that change, as they are and as they are to be.
-- `restate_sum`: what the rollup's rows gain and lose.
CREATE TEMPORARY TABLE restate_bot (
    user_agent text PRIMARY KEY,
    reason     text NOT NULL
) ON COMMIT DROP;
CREATE TEMPORARY TABLE restate_decision (
    id       uuid PRIMARY KEY,
    old      text,
    filtered text
) ON COMMIT DROP;
CREATE TEMPORARY TABLE restate_event (
    decision    uuid        NOT NULL,
    kind        text        NOT NULL,
    decided_at  timestamptz NOT NULL,
    old         text,
    filtered    text,
    PRIMARY KEY (decision, kind)
) ON COMMIT DROP;
CREATE TEMPORARY TABLE restate_sum (LIKE rollup_base INCLUDING DEFAULTS) ON COMMIT DROP;
