"use strict";
// The gallery's filters: cards are shown or hidden, and ordered, by their data attributes.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("cards");
  const cards = [...list.children];
  const shown = document.getElementById("shown");

  const fits = (data, want) => {
    if (want.direction && data.direction !== want.direction) return false;
    if (want.group && !data.groups.split(" ").includes(want.group)) return false;
    if (want.object && data.object !== want.object) return false;
    if (want.scenario && data.scenario !== want.scenario) return false;
    const low = Number(want.low) || 0;
    const high = want.high === "" ? 1 : Number(want.high);
    if (low <= 0 && high >= 1) return true;
    // An absent object has no IoU: it is shown only while the range is not limited.
    return data.iou !== "" && Number(data.iou) >= low && Number(data.iou) <= high;
  };

  const iou = (card, missing) => (card.dataset.iou === "" ? missing : Number(card.dataset.iou));
  const orders = {
    "": () => 0,
    up: (a, b) => iou(a, 2) - iou(b, 2),
    down: (a, b) => iou(b, -1) - iou(a, -1),
  };

  const update = () => {
    const want = Object.fromEntries(new FormData(form));
    let count = 0;
    for (const card of cards) {
      card.hidden = !fits(card.dataset, want);
      count += card.hidden ? 0 : 1;
    }
    list.replaceChildren(...cards.slice().sort(orders[want.order]));
    shown.textContent = `${count} of ${cards.length}`;
  };

  form.addEventListener("input", update);
  // The event comes before the fields have changed.
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
