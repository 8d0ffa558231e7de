
"use strict";
// The page is complete without this: it adds the theme's button, sorting, filtering and closed details.
(() => {
  const root = document.documentElement;
  const byId = (name) => document.getElementById(name);
  root.classList.add("scripts");

  // ---- theme: the system's, until a choice is made; the choice is remembered where the browser allows it
  const KEY = "waterline-theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const toggle = byId("theme");
  const remembered = () => {
    try { return localStorage.getItem(KEY); } catch { return null; }
  };
  const remember = (theme) => {
    try { localStorage.setItem(KEY, theme); } catch { /* it holds until the page is closed */ }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const showTheme = () => toggle.setAttribute("aria-pressed", String(isDark()));
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    showTheme();
  });
  dark.addEventListener("change", showTheme);
  showTheme();

  // ---- the table of layers
  const table = byId("layer-table");
  if (!table) return;
  const layers = JSON.parse(byId("data").textContent).analysis.layers;
  const bodies = [...table.tBodies];
  const layerOf = (body) => layers[Number(body.dataset.index)];

  // Details: closed at first, opened one by one, all at once, or by a link to the layer.
  const expander = (body) => body.querySelector(".expand");
  const setOpen = (body, isOpen) => {
    expander(body).setAttribute("aria-expanded", String(isOpen));
    body.rows[1].hidden = !isOpen;
  };
  const isOpen = (body) => !body.rows[1].hidden;
  for (const body of bodies) {
    setOpen(body, false);
    expander(body).addEventListener("click", () => {
      setOpen(body, !isOpen(body));
      showAll();
    });
  }
  const openAll = byId("open-all");
  const showAll = () => openAll.setAttribute("aria-pressed", String(bodies.every(isOpen)));
  openAll.addEventListener("click", () => {
    const open = !bodies.every(isOpen);
    bodies.forEach((body) => setOpen(body, open));
    showAll();
  });

  // Sorting: by the page's data, not by what the cells show. Numbers begin with the largest, text with A.
  const values = {
    index: (body) => Number(body.dataset.index),
    get: (key) => values[key] || ((body) => layerOf(body)[key]),
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const sort = (heading, key) => {
    const value = values.get(key);
    const isNumber = key !== "index" && typeof value(bodies[0]) === "number";
    const before = heading.getAttribute("aria-sort");
    const order = before ? (before === "ascending" ? "descending" : "ascending") : isNumber ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    bodies.sort((a, b) => sign * compare(value(a), value(b)) || values.index(a) - values.index(b));
    table.tFoot.before(...bodies);
  };
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => sort(button.closest("th"), button.dataset.key));
  }

  // Filtering: every word has to be in the layer's name, shape, id or algorithm.
  const filter = byId("filter");
  const algorithm = byId("algorithm");
  const total = layers.reduce((sum, layer) => sum + layer.time_ns, 0);
  const textOf = (layer) => `${layer.name} ${layer.shown_shape} ${layer.shape} ${layer.algorithm}`.toLowerCase();
  const showFiltered = () => {
    const words = filter.value.toLowerCase().replaceAll("->", "\u2192").split(/\s+/).filter(Boolean);
    let count = 0;
    let time = 0;
    for (const body of bodies) {
      const layer = layerOf(body);
      const text = textOf(layer);
      body.hidden =
        !words.every((word) => text.includes(word)) || (algorithm.value !== "" && layer.algorithm !== algorithm.value);
      if (!body.hidden) {
        count += 1;
        time += layer.time_ns;
      }
    }
    const share = total ? ((100 * time) / total).toFixed(1) : "0.0";
    byId("shown").textContent =
      count === layers.length
        ? `${count} layers`
        : `${count} of ${layers.length} layers, ${share} % of the time`;
  };
  filter.addEventListener("input", showFiltered);
  algorithm.addEventListener("change", showFiltered);
  filter.form.addEventListener("submit", (event) => event.preventDefault());

  // A link to a layer shows it, whatever is filtered.
  const follow = () => {
    const body = bodies.find((each) => `#${each.id}` === location.hash);
    if (!body) return;
    if (body.hidden) {
      filter.value = algorithm.value = "";
      showFiltered();
    }
    setOpen(body, true);
    showAll();
    expander(body).focus();
    body.scrollIntoView({ block: "start" });
  };
  addEventListener("hashchange", follow);
  follow();
})();
