// What the keyboard and the pair's controls do. Every page works without it.
"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);

  // Rows of the first list of the page: j and k.
  const rows = () => all("table.rows tbody tr, ul.cards > li, ol.queue > li").filter((row) => row.querySelector("a[href]"));
  const move = (step) => {
    const list = rows();
    if (!list.length) return;
    const at = list.findIndex((row) => row.contains(document.activeElement));
    const next = list[at < 0 ? (step > 0 ? 0 : list.length - 1) : Math.min(list.length - 1, Math.max(0, at + step))];
    next.querySelector("a[href]").focus();
    next.scrollIntoView({ block: "nearest" });
  };

  const press = (selector) => { const found = one(selector); if (found) found.click(); return Boolean(found); };
  const follow = (relation) => press(`a[rel="${relation}"][data-key]`) || press(`a[rel="${relation}"]`);
  const keys = {
    j: () => move(1),
    k: () => move(-1),
    n: () => follow("next"),
    p: () => follow("prev"),
    u: () => press("a[data-undecided]"),
    o: () => press("#overlay-shown"),
    r: () => press("#outlines-shown"),
    "/": () => { const field = one("form.filters input:not([type=hidden]), form.filters select"); if (field) { const fold = field.closest("details"); if (fold) fold.open = true; field.focus(); } },
    "?": () => one("#keys").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const typing = event.target.closest && event.target.closest("input:not([type=checkbox]):not([type=radio]):not([type=range]), select, textarea, dialog");
    if (typing || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });

  // A form that only looks is sent without its empty fields, so that its URL stays short.
  for (const form of all("form[method=get]")) {
    form.addEventListener("formdata", (event) => {
      for (const [name, value] of [...event.formData.entries()]) if (value === "") event.formData.delete(name);
    });
    for (const field of all("[data-submits]", form)) field.addEventListener("change", () => form.requestSubmit());
  }

  // A hint above tables that are wider than the window.
  const mark = () => { for (const box of all(".box")) box.classList.toggle("scrolls", box.scrollWidth > box.clientWidth + 1); };
  mark();
  addEventListener("resize", mark);
  for (const fold of all("details")) fold.addEventListener("toggle", mark);

  // Overlay of the pair pages.
  const shown = one("#overlay-shown");
  const opacity = one("#opacity");
  const outlines = one("#outlines-shown");
  const apply = () => {
    for (const picture of all(".stack")) {
      picture.classList.toggle("bare", Boolean(shown) && !shown.checked);
      picture.classList.toggle("plain", Boolean(outlines) && !outlines.checked);
      const map = picture.querySelector(".map");
      if (map && opacity) map.style.opacity = String(Number(opacity.value) / 100);
    }
    const value = one("#opacity-value");
    if (value && opacity) value.textContent = `${opacity.value} %`;
  };
  for (const control of [shown, opacity, outlines]) if (control) control.addEventListener("input", apply);
  if (shown || opacity || outlines) {
    for (const part of all(".needs-script")) part.hidden = false;
    apply();
  }
})();
