-- What workers' budgets and pacing said in the minutes before a state line, that one included. There is a full
-- one of each worker every minute.
SELECT replace(line.id::text, '-', ''), line.params -> 'state'
  FROM request_log AS line
 WHERE line.time BETWEEN to_timestamp(%(at_s)s) - interval '10 minutes'
                     AND to_timestamp(%(at_s)s) + interval '1 minute'
   AND line.endpoint = 'state'
