-- The ids that live at these places (block, offset). Random places are a fair sample of the rows:
-- each row has one place, and a place without a row just yields nothing. TABLESAMPLE SYSTEM takes whole
-- pages, so ten thousand ids would come from two hundred pages and a benchmark would find them all
-- cached; TABLESAMPLE BERNOULLI is fair but reads the whole table.
SELECT id FROM ad_variant WHERE ctid = ANY (%(places)s::tid[])
