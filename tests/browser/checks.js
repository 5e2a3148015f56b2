// What anyone can say of a page without a person looking: labels, names, headings, contrast, width. Returns what is wrong.
() => {
  const wrong = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  const say = (what, element) => wrong.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const text = (element) => (element.textContent || "").trim();
  const named = (element) =>
    text(element) || element.getAttribute("aria-label") || element.title ||
    (element.getAttribute("aria-labelledby") || "").split(/\s+/).some((id) => id && document.getElementById(id)) ||
    [...element.querySelectorAll("img[alt]")].some((image) => image.alt.trim());

  if (!document.documentElement.lang) wrong.push("no language");
  if (!document.title.trim()) wrong.push("no title");
  if (all("main").length !== 1) wrong.push(`${all("main").length} main landmarks`);
  const headings = all("h1, h2, h3, h4, h5, h6").filter(shown);
  if (headings.filter((heading) => heading.tagName === "H1").length !== 1) wrong.push("not exactly one h1");
  let before = 0;
  for (const heading of headings) {
    const level = Number(heading.tagName[1]);
    if (level > before + 1) say(`a heading of level ${level} after one of level ${before}`, heading);
    if (!text(heading)) say("an empty heading", heading);
    before = level;
  }
  for (const image of all("img")) if (!image.hasAttribute("alt")) say("no alternative text", image);
  for (const image of all("img").filter(shown)) if (image.complete && image.naturalWidth === 0) say("an image that is broken", image);
  for (const field of all("input:not([type=hidden]), select, textarea"))
    if (!(field.labels && [...field.labels].some(text)) && !field.getAttribute("aria-label") && !field.getAttribute("aria-labelledby"))
      say("a field without a label", field);
  for (const element of all("a[href], button, summary")) if (shown(element) && !named(element)) say("nothing says what it is", element);
  for (const element of all("[tabindex]")) if (element.tabIndex > 0) say("an order of its own for the keyboard", element);
  for (const element of all("[aria-labelledby], [aria-describedby]"))
    for (const name of ["aria-labelledby", "aria-describedby"])
      for (const id of (element.getAttribute(name) || "").split(/\s+/))
        if (id && !document.getElementById(id)) say(`${name} names nothing`, element);
  const ids = all("[id]").map((element) => element.id);
  for (const id of new Set(ids.filter((id, place) => ids.indexOf(id) !== place))) wrong.push(`id ${id} twice`);
  for (const table of all("table").filter(shown)) if (!table.querySelector("th")) say("a table without headings", table);
  for (const link of all("a[target]")) say("a link that opens a window", link);

  // Contrast (WCAG 2.1, 1.4.3), where the background is one colour.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((value) => (value / 255 <= 0.03928 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== "none" && !at.matches(".box")) return null; // the shadows of a table lie outside its text
      const colour = rgba(style.backgroundColor);
      if (colour[3] === 255) return colour;
      if (colour[3] > 0) return null;
    }
    return [255, 255, 255, 255];
  };
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(element) || !shown(element) || element.closest("svg, [disabled], option, .skip")) continue;
    seen.add(element);
    const back = behind(element);
    const style = getComputedStyle(element);
    const ink = rgba(style.color);
    if (!back || ink[3] < 255) continue;
    const [high, low] = [light(ink), light(back)].sort((one, other) => other - one);
    const ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) say(`contrast of ${ratio.toFixed(2)}`, element);
  }

  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    const wide = all("body *").filter((element) => shown(element) && element.getBoundingClientRect().right > root.clientWidth + 1 && !element.closest(".box, .bar nav, pre, .unseen"));
    wrong.push(`wider than the window: ${root.scrollWidth} > ${root.clientWidth}`);
    for (const element of wide.slice(0, 5)) say("wider than the window", element);
  }
  return wrong;
}
