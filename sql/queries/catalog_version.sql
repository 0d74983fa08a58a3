-- The version of the catalog that is in force, and whether the one that is asked for has been.
SELECT version, coalesce(%(wanted)s::bigint, version) BETWEEN 0 AND version FROM catalog_state
