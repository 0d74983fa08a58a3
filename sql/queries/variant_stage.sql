-- Where an import's lines land before they are merged. Temporary: not logged, gone with the session.
CREATE TEMPORARY TABLE variant_stage (
    line          bigint   NOT NULL,
    id            uuid     NOT NULL,
    advertiser_id integer  NOT NULL,
    campaign_id   integer  NOT NULL,
    width         smallint NOT NULL,
    height        smallint NOT NULL,
    title         text     NOT NULL,
    image_url     text     NOT NULL,
    click_url     text     NOT NULL
)
