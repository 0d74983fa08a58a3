// The publisher's tag: fills every element with data-zone. See docs/tags.md for what can be said in a page.
// A page must never break by it: whatever fails leaves a place empty and nothing else.

var script = document.currentScript;
var base = script ? script.src.replace(/\/tag\.js(?:[?#].*)?$/, '') : '';
var settings = (script && script.dataset) || {};
var api = window.preforkAds = window.preforkAds || {};
var STORED = 'prefork-ads-id';
// How far from the screen a place is filled, and how long its page waits for consent and for ads.
var NEAR = settings.near || '400px', CONSENT_MS = 1000, ANSWER_MS = 10000;

var wanted = [], due = 0, consent = null;

function safely(what) {
  return function (argument) {
    try { return what(argument); } catch (error) { if (window.console) console.debug('prefork-ads:', error); }
  };
}

function words(text) {
  return (text || '').split(',').map(function (word) { return word.trim(); }).filter(Boolean);
}

// -- what is said of the person ----------------------------------------------------------------------------

// What the page's consent manager (IAB TCF) says, or what stands in the tag.
function askConsent(answer) {
  var known = { gdpr: settings.gdpr, gdpr_consent: settings.gdprConsent, us_privacy: settings.usPrivacy };
  if (known.gdpr !== undefined || typeof window.__tcfapi !== 'function') return answer(known);
  var timer = setTimeout(function () { answer({ gdpr: '1' }); }, CONSENT_MS);
  window.__tcfapi('addEventListener', 2, safely(function (data) {
    if (!data || data.eventStatus === 'cmpuishown') return;
    clearTimeout(timer);
    answer({ gdpr: data.gdprApplies ? '1' : '0', gdpr_consent: data.tcString });
  }));
}

// The page's own id for the person; or one of ours, kept by this site alone, and only if it says that it may be.
function userId(places) {
  var given = settings.uid || (places.filter(function (place) { return place.dataset.uid; })[0] || { dataset: {} }).dataset.uid;
  if (given) return given;
  try {
    if (navigator.globalPrivacyControl || !(api.consent === true || settings.consent === 'yes')) {
      localStorage.removeItem(STORED);
      return undefined;
    }
    var id = localStorage.getItem(STORED);
    if (!id && window.crypto && crypto.randomUUID) localStorage.setItem(STORED, id = crypto.randomUUID());
    return id || undefined;
  } catch (error) {
    return undefined;
  }
}

// -- what is asked for -------------------------------------------------------------------------------------

function values(places) {
  var found = {};
  places.concat(script || []).forEach(function (place) {
    Array.prototype.forEach.call(place.attributes, function (attribute) {
      if (attribute.name.indexOf('data-values-') !== 0) return;
      var name = attribute.name.slice(12);
      found[name] = (found[name] || []).concat(words(attribute.value));
    });
  });
  return found;
}

function request(places) {
  var asked = {
    places: places.map(function (place) {
      var sizes = words(place.dataset.sizes);
      return sizes.length ? { zone: place.dataset.zone, sizes: sizes } : { zone: place.dataset.zone };
    }),
    page: settings.page || location.href.split('#')[0],
    keywords: words(settings.kw).concat.apply(words(settings.kw), places.map(function (place) { return words(place.dataset.kw); })),
    values: values(places),
    uid: userId(places)
  };
  for (var name in consent) asked[name] = consent[name];
  return asked;
}

function send() {
  due = 0;
  // The server takes twenty at a time.
  var places = wanted.splice(0, 20);
  if (wanted.length) soon();
  if (places.length) ask(places);
}

function ask(places) {
  var timer, stop = window.AbortController ? new AbortController() : null;
  if (stop) timer = setTimeout(function () { stop.abort(); }, ANSWER_MS);
  // As plain text it needs no permission to be asked for first.
  fetch(base + '/ad', {
    method: 'POST', body: JSON.stringify(request(places)), credentials: 'omit',
    headers: { 'Content-Type': 'text/plain' }, signal: stop ? stop.signal : undefined
  }).then(function (answer) {
    // One of them is no zone: the others need not suffer for it.
    if (answer.status === 404 && places.length > 1) return places.forEach(function (place) { ask([place]); });
    if (answer.status !== 200) return places.forEach(function (place) { left(place, 'failed'); });
    return answer.json().then(function (said) {
      places.forEach(function (place, position) { fill(place, said.ads[position]); });
    });
  }).catch(function () {
    places.forEach(function (place) { left(place, 'failed'); });
  }).then(function () { clearTimeout(timer); });
}

function soon() {
  if (!due) due = setTimeout(safely(consent ? send : function () {
    askConsent(safely(function (said) { consent = said; send(); }));
  }), 0);
}

function fill(place, ad) {
  safely(function () {
    if (!ad || !ad.creative) return left(place, 'empty');
    place.setAttribute('data-ad-state', 'filled');
    tell(place, 'decision', ad);
    show(place, ad, (api.templates || {})[place.dataset.template]);
  })();
}

function left(place, why) {
  place.setAttribute('data-ad-state', why);
  place.style.minHeight = '';
  tell(place, why, null);
}

// -- where the places are ----------------------------------------------------------------------------------

var observer = window.IntersectionObserver && new IntersectionObserver(safely(function (entries) {
  entries.forEach(function (entry) {
    if (!entry.isIntersecting) return;
    observer.unobserve(entry.target);
    wanted.push(entry.target);
  });
  if (wanted.length) soon();
}), { rootMargin: NEAR });

function look() {
  var places = document.querySelectorAll('[data-zone]:not([data-ad-state])');
  Array.prototype.forEach.call(places, function (place) {
    place.setAttribute('data-ad-state', 'waiting');
    // Room for the ad, where its size is known: nothing jumps when it comes.
    var size = /^\d+x(\d+)$/.exec(place.dataset.sizes || '');
    if (size && !place.style.minHeight) place.style.minHeight = size[1] + 'px';
    if (observer) observer.observe(place);
    else { wanted.push(place); soon(); }
  });
}

safely(function () {
  look();
  if (window.MutationObserver) {
    new MutationObserver(safely(look)).observe(document.documentElement, {
      childList: true, subtree: true, attributes: true, attributeFilter: ['data-zone']
    });
  }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', safely(look));
  api.refresh = safely(function (place) {
    place.textContent = '';
    place.removeAttribute('data-ad-state');
    look();
  });
})();
