-- Where the rollup of these hours differs from the single decisions, events and conversions.
SELECT source, (difference).* FROM rollup_check(%(from)s, %(to)s) LIMIT %(at_most)s
