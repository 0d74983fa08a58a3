-- Take a user's id out of one day of the request log.
--
-- Where the server itself wrote the id the member goes, as if it had never been sent. Wherever else it
-- stands (a parameter, an address of a page) the word `forgotten` takes its place; with and without
-- hyphens, in either case of letters. (An id without a letter could be a number in somebody's JSON, which must
-- stay one: then it is 1 that takes its place.) The pattern is made of the characters
-- of hexadecimal digits and of base64 alone. A line without the id is told by its small letters without
-- hyphens, which costs a quarter of what the pattern does; CASE has it looked at first.
UPDATE request_log
   SET params = regexp_replace(
           (params #- '{decision,uid}' #- '{event,uid}' #- '{conversion,uid}')::text,
           %(pattern)s, %(instead)s, 'gi')::jsonb,
       user_agent = regexp_replace(user_agent, %(pattern)s, %(instead)s, 'gi'),
       referer    = regexp_replace(referer, %(pattern)s, %(instead)s, 'gi')
 WHERE time >= %(from)s AND time < %(to)s
   AND CASE WHEN replace(lower(concat_ws(' ', params::text, user_agent, referer)), '-', '') LIKE ANY (%(hints)s)
            THEN concat_ws(' ', params::text, user_agent, referer) ~* %(pattern)s
            ELSE false END
