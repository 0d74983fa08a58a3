-- Look up a batch of variants by the statement prepared above.
EXECUTE ad_variants (%(keys)s);
