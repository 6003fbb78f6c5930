// What pages that change by themselves share: the stream of events, the time left, the count of what waits.

/** Milliseconds by which the server's clock is ahead of this one. */
export let ahead = 0;

export function clock(now) {
  ahead = now - Date.now();
}

/** How long there still is, as the server writes it too. */
export function left(deadline) {
  const seconds = Math.max(0, Math.floor((deadline - Date.now() - ahead) / 1000));
  if (seconds === 0) return "over";
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

/** Writes the text where it is another one: what stays the same is not laid out again. */
export function write(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

/** How many calls wait, in the navigation. */
export function count(pending) {
  const place = document.querySelector("[data-waiting]");
  if (!place) return;
  place.dataset.waiting = String(pending);
  write(place, String(pending));
}

/**
 * Listens, to what happens to one hold or to all, for as long as the page is looked at, or longer where `keeps` says so:
 * browsers open few connections to one host. `heard` gets the kind of each event and its data; after `ready` it has to
 * look whether something was missed.
 */
export function listen(heard, { hold = "", keeps = () => false } = {}) {
  const shown = document.querySelector("[data-live]");
  let source = null;
  let over = false;
  let refused = 0;
  const say = (state, text) => {
    if (!shown) return;
    shown.dataset.live = state;
    write(shown, text);
  };
  const close = () => {
    source?.close();
    source = null;
  };
  const open = () => {
    if (source || over) return;
    source = new EventSource(hold ? `/events?hold=${encodeURIComponent(hold)}` : "/events");
    for (const kind of ["ready", "changed", "lagged"]) {
      source.addEventListener(kind, (event) => {
        refused = 0;
        say("on", "Live");
        heard(kind, JSON.parse(event.data));
      });
    }
    source.addEventListener("ended", () => {
      over = true;
      close();
      say("ended", "You are signed out: open the page again.");
      document.title = "Signed out · Countersign";
      heard("ended", {});
    });
    source.addEventListener("error", () => {
      say("off", "Not live: trying again");
      // the browser itself tries again, but where it was refused
      if (source?.readyState !== EventSource.CLOSED) return;
      close();
      refused += 1;
      over = refused > 5;
      if (over) say("ended", "Not live any more: open the page again.");
      else setTimeout(follow, 5000);
    });
  };
  const follow = () => (document.hidden && !keeps() ? close() : open());
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", close);
  addEventListener("pageshow", follow);
  follow();
}
