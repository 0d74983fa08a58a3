-- Let the index of times know the pages that have been filled since the last time.
SELECT request_log_summarize(%(first_day)s, %(last_day)s)
