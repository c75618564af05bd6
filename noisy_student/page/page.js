"use strict";
(() => {
  const every = (selector, root = document) => [...root.querySelectorAll(selector)];
  const select = document.getElementById("class-filter");
  const names = select ? [...select.options].map((each) => each.value) : every(".filter button").map((each) => each.dataset.filter);
  const classes = names.filter(Boolean);
  const hue = new Map(classes.map((name, place) => [name, (place * 360) / Math.max(classes.length, 1)]));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colorOf = (name) => `hsl(${hue.get(name) ?? 0} 70% ${dark.matches ? 65 : 42}%)`;
  const press = (buttons, chosen) => buttons.forEach((each) => each.setAttribute("aria-pressed", each === chosen));

  const sheets = every(".picture").map((figure) => ({ figure, classes: JSON.parse(figure.dataset.classes) }));
  every(".picture img").forEach((image) => {
    const small = () => image.naturalWidth && image.naturalWidth < 48 && image.classList.add("small");
    image.addEventListener("load", small);
    small();
  });

  let chosenClass = "";
  const filters = every(".filter button");
  const cells = every(".confusion button");
  const said = document.getElementById("mistakes-said");
  const filtered = document.getElementById("filtered");
  const showAll = () => {
    sheets.forEach((each) => {
      each.figure.hidden = Boolean(chosenClass) && !each.classes.includes(chosenClass);
    });
    filtered.textContent = chosenClass ? `${sheets.filter((each) => !each.figure.hidden).length} pictures shown` : "";
  };
  const filter = (name) => {
    chosenClass = name;
    press(cells, null);
    said.textContent = "The surest first.";
    showAll();
    paint();
  };
  const swatches = () => filters.forEach((button) => button.querySelector("i")?.style.setProperty("--own", colorOf(button.dataset.filter)));
  swatches();
  filters.forEach((button) => button.addEventListener("click", () => {
    press(filters, button);
    filter(button.dataset.filter);
  }));
  select?.addEventListener("change", () => filter(select.value));

  cells.forEach((cell) => cell.addEventListener("click", () => {
    const open = cell.getAttribute("aria-pressed") !== "true";
    press(cells, open ? cell : null);
    showAll();
    const mistakes = every("#mistake-sheet .picture");
    const { actual, predicted } = cell.dataset;
    if (open) {
      mistakes.forEach((figure) => {
        const [of, , , truth] = JSON.parse(figure.dataset.classes);
        figure.hidden = of !== predicted || truth !== actual;
      });
    }
    const shown = mistakes.filter((figure) => !figure.hidden).length;
    said.textContent = open ? `${shown} of ${cell.textContent} images of ${actual} predicted as ${predicted}.` : "The surest first.";
    if (open) document.getElementById("mistakes-shown").scrollIntoView({ block: "nearest" });
  }));

  const svg = document.getElementById("points");
  const points = svg ? JSON.parse(document.getElementById("map-data").textContent) : [];
  const shown = document.getElementById("shown");
  let color = "predicted";
  let current = -1;
  const shapes = {
    labeled: () => ["rect", { x: -1, y: -1, width: 2, height: 2 }],
    calibration: () => ["path", { d: "M0 -1.3 L1.2 .9 L-1.2 .9 Z" }],
    pool: () => ["circle", { r: 0.9 }],
  };
  points.forEach((point, place) => {
    const [kind, values] = shapes[point.split]();
    const mark = document.createElementNS("http://www.w3.org/2000/svg", kind);
    Object.entries(values).forEach(([key, value]) => mark.setAttribute(key, value));
    mark.setAttribute("transform", `translate(${100 * point.x} ${100 * (1 - point.y)})`);
    mark.addEventListener("pointerenter", () => choose(place));
    mark.addEventListener("click", () => choose(place));
    svg.append(mark);
    point.mark = mark;
  });

  const isWrong = (point) => Boolean(point.truth) && point.truth !== point.predicted;
  function shade(point) {
    if (color === "predicted") return colorOf(point.predicted);
    if (color === "confidence") return `hsl(${20 + 200 * point.confidence} 75% ${dark.matches ? 62 : 42}%)`;
    if (!point.truth) return "var(--soft)";
    return isWrong(point) ? "var(--bad)" : "var(--third)";
  }
  const legends = {
    predicted: "The colors are those of the classes above.",
    confidence: "Orange is unsure, green is half sure, and blue is sure.",
    right: "Green is right, red with a dark edge is wrong, and gray is unknown.",
  };
  function paint() {
    if (!svg) return;
    document.getElementById("legend").textContent = legends[color];
    points.forEach((point) => {
      const { mark } = point;
      mark.style.setProperty("--own", shade(point));
      mark.classList.toggle("hollow", point.split === "pool" && !point.kept);
      mark.classList.toggle("cross", color === "right" && isWrong(point));
      const of = !chosenClass || point.predicted === chosenClass || point.truth === chosenClass;
      mark.classList.toggle("faint", !of);
    });
  }
  function line(term, text) {
    const name = document.createElement("dt");
    const value = document.createElement("dd");
    const isolated = document.createElement("bdi");
    name.textContent = term;
    isolated.textContent = text;
    value.append(isolated);
    return [name, value];
  }
  function choose(place) {
    points[current]?.mark.classList.remove("chosen");
    current = place;
    const point = points[place];
    point.mark.classList.add("chosen");
    const image = document.createElement("img");
    image.src = point.picture;
    image.alt = "";
    const list = document.createElement("dl");
    list.append(...line("image", point.id), ...line("split", point.split), ...line("predicted", point.predicted));
    list.append(...line("confidence", `${Math.round(100 * point.confidence)} %`));
    if (point.truth) list.append(...line("truth", point.truth));
    if (point.split === "pool") list.append(...line("kept", point.kept ? "yes" : "no"));
    shown.replaceChildren(image, list);
  }
  const directions = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const steps = { PageDown: 1, PageUp: -1 };
  svg?.addEventListener("keydown", (event) => {
    const way = directions[event.key];
    const step = steps[event.key];
    if (!way && !step) return;
    event.preventDefault();
    if (current < 0) return choose(0);
    if (step) return choose((current + step + points.length) % points.length);
    const from = points[current];
    let best = -1;
    let least = Infinity;
    points.forEach((point, place) => {
      const [right, up] = [point.x - from.x, point.y - from.y];
      const along = right * way[0] + up * way[1];
      const aside = Math.abs(right * way[1]) + Math.abs(up * way[0]);
      const distance = along + 2 * aside;
      if (along > 1e-6 && distance < least) [best, least] = [place, distance];
    });
    if (best >= 0) choose(best);
  });
  every(".choice button").forEach((button, _, buttons) => button.addEventListener("click", () => {
    color = button.dataset.color;
    press(buttons, button);
    paint();
  }));
  dark.addEventListener("change", () => {
    swatches();
    paint();
  });
  paint();
})();
