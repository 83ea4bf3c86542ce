"use strict";
// The gallery's filters show, hide and sort the cards by their data attributes.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const list = document.getElementById("cards");
  const cards = [...list.children];
  const countText = document.getElementById("shown");

  const matches = (data, filter) => {
    if (filter.direction && data.direction !== filter.direction) return false;
    if (filter.group && !data.groups.split(" ").includes(filter.group)) return false;
    if (filter.object && data.object !== filter.object) return false;
    if (filter.scenario && data.scenario !== filter.scenario) return false;
    const low = Number(filter.low) || 0;
    const high = filter.high === "" ? 1 : Number(filter.high);
    if (low <= 0 && high >= 1) return true;
    // An absent object has no IoU, so it is shown only without limits on the IoU.
    return data.iou !== "" && Number(data.iou) >= low && Number(data.iou) <= high;
  };

  const iou = (card, missing) => (card.dataset.iou === "" ? missing : Number(card.dataset.iou));
  const orders = {
    "": () => 0,
    up: (a, b) => iou(a, 2) - iou(b, 2),
    down: (a, b) => iou(b, -1) - iou(a, -1),
  };

  const update = () => {
    const filter = Object.fromEntries(new FormData(form));
    let count = 0;
    for (const card of cards) {
      card.hidden = !matches(card.dataset, filter);
      count += card.hidden ? 0 : 1;
    }
    list.replaceChildren(...cards.slice().sort(orders[filter.order]));
    countText.textContent = `${count} of ${cards.length}`;
  };

  form.addEventListener("input", update);
  // The fields change after this event.
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
