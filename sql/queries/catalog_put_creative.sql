-- Creatives as a JSON list of them says, new ones and those that are there.
INSERT INTO creative (key, campaign_id, name, status, format, width, height, html, image_url, alt,
                      native, click_url, weight)
SELECT r.key, campaign.id, r.name, r.status, r.format, r.width, r.height, r.html, r.image_url,
       r.alt, r.native, r.click_url, r.weight
  FROM jsonb_to_recordset(%(items)s::jsonb)
       AS r (key text, campaign text, name text, status text, format text, width integer, height
             integer, html text, image_url text, alt text, native jsonb, click_url text, weight
             integer)
  JOIN campaign ON campaign.key = r.campaign
ON CONFLICT (key) DO UPDATE
   SET name = excluded.name,
       status = excluded.status,
       format = excluded.format,
       width = excluded.width,
       height = excluded.height,
       html = excluded.html,
       image_url = excluded.image_url,
       alt = excluded.alt,
       native = excluded.native,
       click_url = excluded.click_url,
       weight = excluded.weight,
       campaign_id = excluded.campaign_id
