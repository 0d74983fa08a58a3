// One ad in its place, for the tag and for format=js: show it, say when it was seen, say where it leads.
// Plain functions; whoever serves this puts a function around it.

var SANDBOX = 'allow-scripts allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation';

// Tell the server, also while the page is being left.
function beacon(url) {
  if (!(navigator.sendBeacon && navigator.sendBeacon(url))) new Image().src = url;
}

// Tell the page: an event that bubbles from the place, with what happened and to which ad.
function tell(place, what, ad) {
  place.dispatchEvent(new CustomEvent('prefork-ads', { bubbles: true, detail: { what: what, ad: ad } }));
}

// Once, when half of an element was in sight for a second without a pause.
function whenSeen(element, seen) {
  if (!window.IntersectionObserver) return;
  var timer = 0, inSight = false;
  function look() {
    var counts = inSight && document.visibilityState === 'visible';
    if (counts && !timer) timer = setTimeout(done, 1000);
    if (!counts && timer) { clearTimeout(timer); timer = 0; }
  }
  function done() {
    observer.disconnect();
    document.removeEventListener('visibilitychange', look);
    seen();
  }
  var observer = new IntersectionObserver(function (entries) {
    inSight = entries[entries.length - 1].intersectionRatio >= 0.5;
    look();
  }, { threshold: [0, 0.5] });
  observer.observe(element);
  document.addEventListener('visibilitychange', look);
}

function make(name, attributes, parent) {
  var element = document.createElement(name);
  for (var key in attributes) element.setAttribute(key, attributes[key]);
  if (parent) parent.appendChild(element);
  return element;
}

function link(ad) {
  return make('a', { href: ad.urls.click, target: '_blank', rel: 'noopener sponsored' });
}

// The creative's own page, in a frame that can reach nothing of the page around it.
function frame(ad) {
  var element = make('iframe', {
    sandbox: SANDBOX, width: ad.width, height: ad.height, scrolling: 'no', title: 'Advertisement',
    style: 'border:0;display:block;max-width:100%'
  });
  element.srcdoc = '<!doctype html><meta charset="utf-8"><base href="' + ad.urls.click.replace(/c\/[^\/]*$/, '') +
    '" target="_blank"><style>html,body{margin:0;overflow:hidden}</style>' + ad.content.html;
  return element;
}

function picture(ad) {
  var around = link(ad);
  around.style.display = 'inline-block';
  make('img', {
    src: ad.content.image_url, alt: ad.content.alt || '', width: ad.width, height: ad.height,
    style: 'display:block;border:0;max-width:100%;height:auto'
  }, around);
  return around;
}

// A native ad that nobody has a template for: its texts and its picture, each only as what it is.
function card(ad) {
  var around = link(ad), content = ad.content;
  around.className = 'prefork-ads-native';
  if (content.image) make('img', { src: new URL(content.image, ad.urls.click), alt: '' }, around);
  ['sponsor', 'title', 'text', 'cta'].forEach(function (part) {
    if (content[part]) make('span', { 'class': 'prefork-ads-' + part }, around).textContent = content[part];
  });
  return around;
}

// Put the ad into its place. `template` makes an element of a native one, or fills the place itself.
function show(place, ad, template) {
  var element, waits;
  if (ad.format === 'html') element = waits = frame(ad);
  else if (ad.format === 'image') { element = picture(ad); waits = element.firstChild; }
  else element = template ? template(ad, place) : card(ad);
  function shown() {
    beacon(ad.urls.impression);
    tell(place, 'impression', ad);
    whenSeen(element || place, function () {
      beacon(ad.urls.viewable);
      tell(place, 'viewable', ad);
    });
  }
  if (waits) waits.addEventListener('load', shown, { once: true });
  if (element) {
    element.addEventListener('click', function () { tell(place, 'click', ad); });
    place.appendChild(element);
  }
  if (!waits) shown();
}
