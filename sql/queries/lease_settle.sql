-- Take back what dead workers have held and not used: who they were, and how much it was.
SELECT holder, unused FROM lease_settle(%(journal)s, %(streams)s::text[])
