// A hold, live: how long there still is, and that it changed. What is on the screen stays as it is: nothing moves under a
// finger, and what changed is asked for by hand. Only where there is nothing to decide the page is brought up to date.
import { clock, count, left, listen, write } from "./live.js";

const state = document.querySelector("[data-as-of]");
const hold = state.dataset.hold;
const acts = [...document.querySelectorAll("form[data-act=approve], form[data-act=deny]")];
clock(Number(state.dataset.now));

/** Whether somebody could be about to decide: with a yes on the page, or a reason begun. */
function deciding() {
  const reason = document.getElementById("reason");
  const yes = acts.some((act) => act.dataset.act === "approve");
  return yes || (reason !== null && (reason.value !== "" || document.activeElement === reason));
}

function changed() {
  // not loaded again as it was: it may be the answer to a form
  if (!deciding()) return location.replace(`/holds/${encodeURIComponent(hold)}`);
  document.querySelector("[data-changed]").hidden = false;
  close();
}

function close() {
  for (const act of acts) for (const button of act.querySelectorAll("button")) button.disabled = true;
}

listen(
  (kind, told) => {
    if (kind === "ended") return close();
    if (told.pending !== undefined) count(told.pending);
    if (told.newest !== undefined && told.newest !== null && told.newest > Number(state.dataset.asOf)) changed();
  },
  { hold },
);

const deadline = Number(state.dataset.deadline);
const place = state.querySelector("[data-left]");
if (place && deadline) {
  setInterval(() => {
    const text = left(deadline);
    write(place, text);
    if (text === "over") close();
  }, 1000);
}
