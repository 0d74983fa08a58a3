-- The whole catalog as it was at a version.
SELECT relation, id, content FROM catalog_at(%(version)s)
