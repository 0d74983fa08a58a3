-- Ask for shares of budgets, give others back, and say that this worker is there; `lease_take` says how.
SELECT * FROM lease_take(
    %(holder)s, %(turn)s, %(journal)s, %(unshipped_s)s, %(window_s)s,
    %(campaigns)s::integer[], %(days)s::date[], %(wants)s::bigint[], %(ceilings)s::bigint[]);
