-- Move what so many batches have added to the rollup into its base; how many those were.
SELECT rollup_fold(%(at_most)s)
