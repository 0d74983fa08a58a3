-- The user agents of a day's decisions and events.
SELECT DISTINCT user_agent
  FROM request_log
 WHERE time >= %(from)s AND time < %(to)s
   AND endpoint IN ('decision', 'impression', 'viewable', 'click')
   AND user_agent IS NOT NULL
