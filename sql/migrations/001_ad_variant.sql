-- Ad variants: one row per uuid, looked up by it, meant for 50 million rows.
--
-- The only access is "these uuids, please" (a batch of keys in one array), so the primary key is the
-- only index. Rows come in bulk (generated or imported) and hardly change.
--
-- Column order: the uuid has alignment 1 and 16 bytes, so the two integers and the two smallints
-- follow it without a byte of padding; texts come last because everything after the first
-- variable-length column costs a walk over the row to find. At 50 million rows a misplaced smallint
-- would cost 300 MB.
--
-- fillfactor 100 is written out for the table and the index because it is a decision: generated ids
-- grow, so the btree is only ever appended to and splits of its last page leave full pages behind.
-- The price is that an update by import moves the row to another page, which is rare here.
--
-- Autovacuum stays on: unlike request_log this table is read by key, updated by imports and worth
-- the visibility map.
CREATE TABLE ad_variant (
    id            uuid     NOT NULL,
    advertiser_id integer  NOT NULL,
    campaign_id   integer  NOT NULL,
    width         smallint NOT NULL,
    height        smallint NOT NULL,
    title         text     NOT NULL,
    image_url     text     NOT NULL,
    click_url     text     NOT NULL,
    CONSTRAINT ad_variant_pkey PRIMARY KEY (id) WITH (fillfactor = 100),
    CONSTRAINT ad_variant_advertiser_positive CHECK (advertiser_id > 0),
    CONSTRAINT ad_variant_campaign_positive   CHECK (campaign_id > 0),
    CONSTRAINT ad_variant_size_positive       CHECK (width > 0 AND height > 0),
    -- octet_length is free (it is in the value's header), char_length would decode the text.
    CONSTRAINT ad_variant_title_length CHECK (octet_length(title) BETWEEN 1 AND 1000),
    -- A click must lead to the web and nowhere else: no javascript:, no data:.
    CONSTRAINT ad_variant_image_url_web CHECK (
        (starts_with(image_url, 'https://') OR starts_with(image_url, 'http://'))
        AND octet_length(image_url) <= 4000),
    CONSTRAINT ad_variant_click_url_web CHECK (
        (starts_with(click_url, 'https://') OR starts_with(click_url, 'http://'))
        AND octet_length(click_url) <= 4000)
) WITH (fillfactor = 100);

COMMENT ON TABLE ad_variant IS 'What GET /ad?id=… answers: one row per uuid.';

-- How far `variants generate` has come. One row, updated in the same transaction as the rows it
-- counts, so that whatever stops a run, the next one goes on where the table really is. Its row lock
-- also makes two runs at once take turns instead of inserting the same rows twice.
CREATE TABLE variant_generation (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    done       bigint  NOT NULL CHECK (done >= 0)
);

INSERT INTO variant_generation (done) VALUES (0);

COMMENT ON TABLE variant_generation IS 'Number of rows of ad_variant that `variants generate` has made.';
