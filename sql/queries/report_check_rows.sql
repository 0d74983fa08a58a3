-- How many rows the rollup has of these hours.
SELECT count(*) FROM rollup_hour WHERE hour >= %(from)s AND hour < %(to)s
