// Colours that the reader chose last time, before anything is painted.
"use strict";
(() => {
  const root = document.documentElement;
  const stored = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const chosen = stored();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  // Plots are pictures: they are asked for in the colours that are shown.
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
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* this page alone, then */ }
      say();
      plots();
    });
  });
})();
