-- Move the stage into the table; an id that is there already gets the new values. Where one batch
-- names an id twice the later line wins, as it would if each line were a batch. Sorted by id, which
-- keeps the index's pages hot; rows that would not change are not written.
INSERT INTO ad_variant AS v
    (id, advertiser_id, campaign_id, width, height, title, image_url, click_url)
SELECT DISTINCT ON (id)
       id, advertiser_id, campaign_id, width, height, title, image_url, click_url
  FROM variant_stage
 ORDER BY id, line DESC
ON CONFLICT (id) DO UPDATE
   SET advertiser_id = excluded.advertiser_id,
       campaign_id   = excluded.campaign_id,
       width         = excluded.width,
       height        = excluded.height,
       title         = excluded.title,
       image_url     = excluded.image_url,
       click_url     = excluded.click_url
 WHERE (v.advertiser_id, v.campaign_id, v.width, v.height, v.title, v.image_url, v.click_url)
    IS DISTINCT FROM
       (excluded.advertiser_id, excluded.campaign_id, excluded.width, excluded.height,
        excluded.title, excluded.image_url, excluded.click_url)
