-- Once per connection: the lookup of a batch of variants. The id comes back as the key it was asked by.
PREPARE ad_variants (uuid[]) AS
SELECT id, advertiser_id, campaign_id, width, height, title, image_url, click_url
  FROM ad_variant
 WHERE id = ANY ($1);
