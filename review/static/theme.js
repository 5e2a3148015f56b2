// Colors that the reader chose last time, before anything is painted.
"use strict";
(() => {
  const root = document.documentElement;
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch { /* no storage: the system's colors */ }
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  // Plots are pictures: they are requested in the colors of the page.
  const plots = () => {
    if (!root.dataset.theme) return;
    for (const picture of document.querySelectorAll("picture.themed")) {
      const image = picture.querySelector("img");
      const address = image.getAttribute("src").replace(/theme=(light|dark)/, `theme=${dark() ? "dark" : "light"}`);
      for (const source of picture.querySelectorAll("source")) source.setAttribute("srcset", address);
      image.setAttribute("src", address);
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    plots();
    const button = document.getElementById("theme");
    if (!button) return;
    const say = () => { button.textContent = dark() ? "Light" : "Dark"; };
    button.hidden = false;
    say();
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* for this page only */ }
      say();
      plots();
    });
  });
})();
