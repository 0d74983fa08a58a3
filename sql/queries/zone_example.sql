-- A zone that serves, for a first request, and whether the zones of the demonstration are there; no row without a zone.
SELECT zone.key, zone.key = 'home-side' AND site.key = 'lantern'
FROM zone JOIN site ON site.id = zone.site_id
WHERE zone.status = 'active' AND site.status = 'active'
ORDER BY zone.key = 'home-side' DESC, zone.id
LIMIT 1
