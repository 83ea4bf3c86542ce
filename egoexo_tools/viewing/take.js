"use strict";
// Shows one instant at a time; the class `off` hides layers and objects.
(() => {
  const form = document.getElementById("controls");
  const slider = form.elements.instant;
  const play = document.getElementById("play");
  const now = document.getElementById("now");
  const instants = [...document.querySelectorAll(".instant")];
  const steps = [...document.querySelectorAll(".strip button")];
  const MILLISECONDS = 500;
  let timer = null;

  const show = () => {
    const number = Number(slider.value);
    instants.forEach((section, index) => (section.hidden = index !== number));
    const { frame, seconds } = instants[number].dataset;
    now.textContent = `frame ${frame}, ${seconds} s`;
    for (const step of steps) {
      const current = Number(step.dataset.instant) === number;
      if (current) step.setAttribute("aria-current", "true");
      else step.removeAttribute("aria-current");
    }
  };

  const switchLayers = () => {
    const objectName = form.elements.object.value;
    const runs = new Set([...form.querySelectorAll("[name=run]:checked")].map((box) => box.value));
    const hide = (selector, isHidden) => {
      for (const node of document.querySelectorAll(selector)) node.classList.toggle("off", isHidden(node));
    };
    hide(".masks", () => !form.elements.masks.checked);
    hide(".proposals", () => !form.elements.proposals.checked);
    hide(".masks [data-object]", (node) => objectName !== "" && node.dataset.object !== objectName);
    hide(".predictions [data-object]", (node) =>
      (objectName !== "" && node.dataset.object !== objectName) || !runs.has(node.dataset.run));
  };

  const go = (number) => {
    slider.value = String(Math.min(Math.max(number, 0), instants.length - 1));
    show();
  };

  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "play";
    play.setAttribute("aria-pressed", "false");
  };

  const openFromAddress = () => {
    const address = new URLSearchParams(location.hash.slice(1));
    const frame = instants.findIndex((section) => section.dataset.frame === address.get("frame"));
    if (frame >= 0) slider.value = String(frame);
    const objects = [...form.elements.object.options].map((option) => option.value);
    if (objects.includes(address.get("object"))) form.elements.object.value = address.get("object");
    for (const box of form.querySelectorAll("[name=run]"))
      if (address.has("run")) box.checked = box.value === address.get("run");
    show();
    switchLayers();
  };

  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    play.textContent = "stop";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => go((Number(slider.value) + 1) % instants.length), MILLISECONDS);
  });
  for (const step of steps)
    step.addEventListener("click", () => go(Number(step.dataset.instant)));
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("select, input")) return;
    if (event.key === "ArrowRight") go(Number(slider.value) + 1);
    if (event.key === "ArrowLeft") go(Number(slider.value) - 1);
  });
  slider.addEventListener("input", show);
  form.addEventListener("change", switchLayers);
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", openFromAddress);
  openFromAddress();
})();
