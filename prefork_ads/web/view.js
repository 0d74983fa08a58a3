// In a document of format=html: say when half of it was in sight for a second.
// An inline script would need the permission of whoever frames it.

var script = document.currentScript;
if (script && script.dataset.view) whenSeen(document.documentElement, function () { beacon(script.dataset.view); });
