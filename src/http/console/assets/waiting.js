// The queue, live: rows come, change and go as the server tells it.
import { clock, count, left, listen, write } from "./live.js";

const queue = document.querySelector("[data-queue]");
const template = document.getElementById("row");
const rows = new Map();
const wants = document.querySelector("[data-notify]");
let tells = false;

for (const row of queue.querySelectorAll("[data-hold]")) rows.set(row.dataset.hold, row);
let size = Number(queue.dataset.size);
clock(Number(queue.dataset.now));

function part(row, name) {
  return row.querySelector(`[data-fill="${name}"]`);
}

function tags(place, name, words) {
  place.replaceChildren(
    ...words.map((word) => {
      const tag = document.createElement("span");
      tag.className = "tag";
      tag.dataset[name] = word;
      tag.textContent = word;
      return tag;
    }),
  );
}

function fill(row, told) {
  row.dataset.hold = told.hold;
  row.dataset.state = told.state;
  row.dataset.yours = String(told.yours);
  row.dataset.deadline = String(told.deadline);
  row.querySelector("a").setAttribute("href", `/holds/${encodeURIComponent(told.hold)}`);
  for (const name of ["tool", "who", "rest", "progress"]) write(part(row, name), told[name]);
  write(part(row, "left"), left(told.deadline));
  tags(part(row, "impact"), "impact", told.impact);
  tags(part(row, "flags"), "flag", told.flags);
  part(row, "arguments").replaceChildren(
    ...told.arguments.map(([path, value]) => {
      const place = document.createElement("span");
      place.className = "theirs";
      const name = document.createElement("b");
      name.textContent = path;
      place.append(name, ` ${value}`);
      return place;
    }),
  );
}

function isBefore(one, other) {
  const approved = (row) => (row.dataset.state === "approved" ? 1 : 0);
  return (
    approved(one) - approved(other) ||
    Number(one.dataset.deadline) - Number(other.dataset.deadline) ||
    (one.dataset.hold < other.dataset.hold ? -1 : 1)
  );
}

function put(told) {
  const known = rows.get(told.hold);
  const row = known ?? template.content.firstElementChild.cloneNode(true);
  const before = [row.dataset.state, row.dataset.deadline].join();
  fill(row, told);
  if (known && before === [row.dataset.state, row.dataset.deadline].join()) return;
  rows.set(told.hold, row);
  const next = [...queue.children].find((other) => other !== row && isBefore(row, other) < 0);
  queue.insertBefore(row, next ?? null);
}

function drop(hold) {
  rows.get(hold)?.remove();
  rows.delete(hold);
}

function settle(pending) {
  count(pending);
  document.title = `${pending > 0 ? `(${pending}) ` : ""}Waiting · Countersign`;
  document.querySelector("[data-empty]").hidden = rows.size > 0;
}

// ---- the whole again, where something may have been missed

let asking = false;

async function catchUp() {
  if (asking) return;
  asking = true;
  try {
    const answer = await fetch("/waiting/rows", { headers: { accept: "application/json" } });
    if (!answer.ok) return;
    const told = await answer.json();
    clock(told.now);
    size = told.size;
    const there = new Set(told.rows.map((row) => row.hold));
    for (const hold of [...rows.keys()]) if (!there.has(hold)) drop(hold);
    told.rows.forEach(put);
    const more = document.querySelector("[data-more]");
    more.hidden = told.more === 0;
    write(more.querySelector("span"), String(told.more));
    settle(told.pending);
  } finally {
    asking = false;
  }
}

if (wants) offer();

listen((kind, told) => {
  if (kind === "ready") {
    if (told.size !== size) catchUp();
  } else if (kind === "lagged") {
    catchUp();
  } else if (kind === "ended") {
    say("You are signed out of Countersign", "Nothing more is told.", "/sign-in");
  } else {
    const known = rows.has(told.hold);
    if (told.row) put(told.row);
    else drop(told.hold);
    settle(told.pending);
    if (told.kind === "call.held" && !known && told.row?.yours) tell(told.row);
  }
}, { keeps: () => tells });

// ---- up and down with the keys, from wherever in the queue the focus is

queue.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
  if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
  const links = [...queue.querySelectorAll("a.open")];
  const at = links.indexOf(document.activeElement);
  if (at < 0) return;
  event.preventDefault();
  links[Math.min(links.length - 1, Math.max(0, at + step))].focus();
});

// ---- one timer for all of them

setInterval(() => {
  if (document.hidden) return;
  for (const row of rows.values()) {
    const text = left(Number(row.dataset.deadline));
    write(part(row, "left"), text);
    if (text === "over") row.dataset.over = "";
  }
}, 1000);

// ---- who wants to be told by the desktop: which tool and whose, never the arguments

function offer() {
  const can = "Notification" in window && isSecureContext;
  tells = can && Notification.permission === "granted";
  wants.hidden = !can || Notification.permission !== "default";
}

wants?.addEventListener("click", async () => {
  await Notification.requestPermission();
  offer();
});

function tell(row) {
  say("A call waits for a countersignature", `${row.tool}, ${row.who}`, `/holds/${encodeURIComponent(row.hold)}`);
}

/** Says it on the desktop, once, while nobody looks at the page. */
function say(title, body, path) {
  if (!tells || !document.hidden) return;
  const note = new Notification(title, { body, tag: path });
  note.addEventListener("click", () => {
    focus();
    location.assign(path);
  });
}
