// Keys: j and k go from item to item, and from page to page; / searches, u leads back to the list, r to a random sample.
// What is pointed at or focused lights up wherever it shows: a phrase and its box, a cue and its place on the timeline.
"use strict";

const follow = (selector) => {
  const link = document.querySelector(selector);
  if (link) link.click();
  return Boolean(link);
};

const items = [...document.querySelectorAll("[data-item]")];
const focusOf = (item) => item.querySelector("a.open") || item.querySelector("a") || item;
let at = -1;

const step = (by) => {
  const focused = items.findIndex((item) => item.contains(document.activeElement));
  const next = (focused >= 0 ? focused : at) + by;
  if (next >= 0 && next < items.length) {
    items.forEach((item, place) => item.classList.toggle("at", place === next));
    at = next;
    const target = focusOf(items[next]);
    target.focus({ preventScroll: true });
    items[next].scrollIntoView({ block: "nearest" });
    return true;
  }
  return follow(by > 0 ? "a[rel=next]" : "a[rel=prev]");
};

const keys = {
  j: () => step(1),
  k: () => step(-1),
  u: () => follow("a[data-up]"),
  r: () => follow("a[data-random]"),
  "/": () => {
    const search = document.querySelector("[data-search]");
    if (search) search.select();
    if (search) search.focus();
    return Boolean(search);
  },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (Object.hasOwn(keys, event.key) && keys[event.key]()) event.preventDefault();
});

for (const area of document.querySelectorAll("[data-regions]")) {
  const parts = [...area.querySelectorAll("[data-region]")];
  const numbers = (element) => (element ? element.dataset.region.split(" ") : []);
  const light = (element) => {
    const lit = new Set(numbers(element));
    for (const part of parts) part.classList.toggle("lit", numbers(part).some((number) => lit.has(number)));
    area.classList.toggle("pointing", lit.size > 0);
  };
  const under = (element) => element.closest("[data-region]");
  const focused = () => (area.contains(document.activeElement) ? under(document.activeElement) : null);
  area.addEventListener("pointerover", (event) => light(under(event.target) || focused()));
  area.addEventListener("pointerleave", () => light(focused()));
  area.addEventListener("focusin", (event) => light(under(event.target)));
  area.addEventListener("focusout", () => light(null));
}
