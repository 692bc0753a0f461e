"use strict";
// The table of all images and the viewer. Everything shown comes from the JSON in #data, and only as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, cls) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (cls) e.className = cls;
    return e;
  };
  const rows = data.tasks.flatMap((task) => task.rows.map((row) => ({ ...row, task: task.name })));
  const CHUNK = 60;
  const state = { sort: 0, down: true, shown: CHUNK, found: [], at: -1, mode: "side", z: 1, x: 0, y: 0, a: 1, b: 2 };
  const digits = (column) => data.columns[column].digits;
  const show = (value, column) => (value === null ? "–" : value.toFixed(digits(column)));

  // --- the table
  const option = (select, value, text) => { const e = make("option", text); e.value = value; select.append(e); };
  option($("task"), "", "all tasks");
  data.tasks.forEach((task) => option($("task"), task.name, task.title));
  data.columns.forEach((column, i) => option($("by"), i, column.title));
  const places = [...new Set(rows.map((row) => row.location))].sort();
  places.slice(0, 2000).forEach((place) => option($("places"), place, place));
  const heads = data.columns.map((column, i) => {
    const th = make("th"), button = make("button", column.title, "sort");
    button.addEventListener("click", () => sortBy(i));
    th.append(button);
    return th;
  });
  $("heads").append(make("th", data.panes.join(", "), "text"), make("th", "image", "text"), ...heads);

  function sortBy(i) {
    state.down = state.sort === i ? !state.down : data.columns[i].worst === "high";
    state.sort = i;
    $("by").value = i;
    update();
  }

  function update() {
    const task = $("task").value, text = $("text").value.trim().toLowerCase(), i = state.sort;
    const low = $("low").value === "" ? -Infinity : Number($("low").value);
    const high = $("high").value === "" ? Infinity : Number($("high").value);
    const bounded = low > -Infinity || high < Infinity;
    const words = text.split(/\s+/).filter(Boolean);
    state.found = rows.filter((row) => {
      const value = row.values[i], all = `${row.name} ${row.location} ${row.note}`.toLowerCase();
      if (task && row.task !== task) return false;
      if (bounded && (value === null || value < low || value > high)) return false;
      return words.every((word) => all.includes(word));
    });
    const sign = state.down ? -1 : 1;
    state.found.sort((p, q) => {
      const a = p.values[i], b = q.values[i];
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (a - b) || p.name.localeCompare(q.name);
    });
    heads.forEach((th, j) => th.setAttribute("aria-sort", j !== i ? "none" : state.down ? "descending" : "ascending"));
    state.shown = CHUNK;
    $("rows").replaceChildren();
    fill();
  }

  function fill() {
    for (const row of state.found.slice($("rows").children.length, state.shown)) $("rows").append(line(row));
    $("count").textContent = `${state.found.length} of ${rows.length} images`;
    $("more").hidden = state.found.length <= $("rows").children.length;
  }

  function line(row) {
    const tr = make("tr"), first = make("td", undefined, "thumb"), name = make("th", undefined, "wide");
    const button = make("button", undefined, "open");
    button.setAttribute("aria-label", `Look at ${row.name}`);
    if (row.thumb) {
      const img = make("img");
      img.loading = "lazy"; img.alt = ""; img.src = row.thumb;
      img.width = 96 * data.panes.length; img.height = 96;
      button.append(img);
    } else button.append(make("span", row.note || "no image", "soft"));
    button.addEventListener("click", () => open(state.found.indexOf(row)));
    first.append(button);
    name.append(make("span", row.task, "tag"), make("span", row.name), make("div", row.name.startsWith(row.location) ? "" : row.location, "soft small"));
    if (row.note && row.thumb) name.append(make("div", row.note, "small worse"));
    tr.append(first, name);
    row.values.forEach((value, i) => {
      const td = make("td", show(value, i));
      td.dataset.title = data.columns[i].title;
      tr.append(td);
    });
    return tr;
  }

  const more = () => { state.shown += CHUNK; fill(); };
  $("more").addEventListener("click", more);
  new IntersectionObserver((seen) => { if (seen[0].isIntersecting && !$("more").hidden) more(); }, { rootMargin: "400px" })
    .observe($("more"));
  ["task", "text", "low", "high"].forEach((id) => $(id).addEventListener("input", update));
  $("by").addEventListener("input", () => { state.sort = -1; sortBy(Number($("by").value)); });
  $("turn").addEventListener("click", () => { state.down = !state.down; update(); });
  $("clear").addEventListener("click", () => {
    ["task", "text", "low", "high"].forEach((id) => { $(id).value = ""; });
    update();
  });
  document.addEventListener("click", (event) => {
    const mark = event.target.closest("[data-location], [data-image]");
    if (!mark) return;
    event.preventDefault();
    $("task").value = mark.dataset.task || "";
    $("text").value = mark.dataset.location || "";
    update();
    if (mark.dataset.image) open(state.found.findIndex((row) => row.name === mark.dataset.image));
    else $("explore").scrollIntoView();
  });

  // --- the viewer
  const viewer = $("viewer"), stage = $("stage");
  const sources = (row) => (row.full.length ? row.full : null);

  function open(at) {
    if (at < 0 || at >= state.found.length) return;
    state.at = at;
    if (!viewer.open) viewer.showModal();
    draw();
    history.replaceState(null, "", `#/${state.found[at].task}/${encodeURIComponent(state.found[at].name)}`);
  }

  function picture(row, pane) {
    const full = sources(row), box = make("div", undefined, "crop");
    if (full && !full[pane]) { box.append(make("span", row.note || "not there", "soft")); return box; }
    if (!full && !row.thumb) { box.append(make("span", row.note || "no image", "soft")); return box; }
    const img = make("img");
    img.draggable = false;
    img.alt = data.panes[pane];
    img.src = full ? full[pane] : row.thumb;
    if (!full) {
      img.className = "part";
      img.style.width = `${100 * data.panes.length}%`;
      img.style.left = `${-100 * pane}%`;
    }
    const inner = make("div", undefined, "inner");
    inner.append(img);
    box.append(inner);
    return box;
  }

  function draw() {
    const row = state.found[state.at];
    $("title").textContent = row.name;
    $("details").textContent = [row.task, row.location, ...row.values.map((v, i) => `${data.columns[i].title} ${show(v, i)}`)]
      .filter(Boolean).join(" · ");
    $("place").textContent = `${state.at + 1} of ${state.found.length}`;
    $("small").hidden = Boolean(sources(row)) || !row.thumb;
    stage.className = state.mode + (data.panes.length > 4 ? " many" : "");
    if (state.mode === "side") {
      stage.replaceChildren(...data.panes.map((title, i) => {
        const figure = make("figure");
        figure.append(picture(row, i), make("figcaption", title));
        return figure;
      }));
    } else {
      const a = picture(row, state.a), b = picture(row, state.b), box = make("div", undefined, "pair");
      b.classList.add("over");
      box.append(a, b);
      stage.replaceChildren(box);
      cut();
    }
    $("pair").hidden = state.mode !== "slider";
    document.querySelectorAll("[data-mode]").forEach((e) => e.setAttribute("aria-pressed", e.dataset.mode === state.mode));
    place();
  }

  function cut() {
    const over = stage.querySelector(".over");
    if (over) over.style.clipPath = `inset(0 0 0 ${$("cut").value}%)`;
  }

  function place() {
    const limit = 1 - state.z;
    state.x = Math.min(0, Math.max(limit, state.x));
    state.y = Math.min(0, Math.max(limit, state.y));
    stage.querySelectorAll(".inner").forEach((e) => {
      e.style.transform = `translate(${100 * state.x}%, ${100 * state.y}%) scale(${state.z})`;
    });
    stage.classList.toggle("sharp", state.z >= 3);
    $("zoom").textContent = `${Math.round(100 * state.z)} %`;
  }

  function zoom(factor, fx = 0.5, fy = 0.5) {
    const z = Math.min(32, Math.max(1, state.z * factor));
    state.x = fx - ((fx - state.x) * z) / state.z;
    state.y = fy - ((fy - state.y) * z) / state.z;
    state.z = z;
    place();
  }

  const fit = () => { Object.assign(state, { z: 1, x: 0, y: 0 }); place(); };
  const step = (by) => open(Math.min(state.found.length - 1, Math.max(0, state.at + by)));
  const setMode = (mode) => { state.mode = mode; draw(); };
  const swap = () => { [state.a, state.b] = [state.b, state.a]; pick(); draw(); };
  const pick = () => { $("a").value = state.a; $("b").value = state.b; };
  data.panes.forEach((title, i) => { option($("a"), i, title); option($("b"), i, title); });
  pick();
  ["a", "b"].forEach((id) => $(id).addEventListener("input", () => { state[id] = Number($(id).value); draw(); }));
  $("cut").addEventListener("input", cut);
  document.querySelectorAll("[data-mode]").forEach((e) => e.addEventListener("click", () => setMode(e.dataset.mode)));
  const does = { previous: () => step(-1), next: () => step(1), closer: () => zoom(1.5), farther: () => zoom(1 / 1.5),
    fit, close: () => viewer.close() };
  Object.entries(does).forEach(([id, work]) => $(id).addEventListener("click", work));
  viewer.addEventListener("close", () => history.replaceState(null, "", "#explore"));

  const keys = { ArrowRight: () => step(1), j: () => step(1), ArrowLeft: () => step(-1), k: () => step(-1),
    Home: () => open(0), End: () => open(state.found.length - 1), "+": () => zoom(1.5), "=": () => zoom(1.5),
    "-": () => zoom(1 / 1.5), 0: fit, x: swap, s: () => setMode(state.mode === "side" ? "slider" : "side") };
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (!viewer.open) {
      if (typing) return;
      if (event.key === "/") { event.preventDefault(); $("explore").scrollIntoView(); $("text").focus(); }
      if (event.key === "v") open(0);
      return;
    }
    if (typing && event.key.startsWith("Arrow")) return;
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });

  // Drag with one finger or the mouse, pinch with two, turn the wheel to zoom where the pointer is.
  const fingers = new Map();
  const within = (event) => {
    const under = document.elementFromPoint(event.clientX, event.clientY);
    const box = ((under && under.closest(".crop")) || stage.querySelector(".crop")).getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [fx, fy] = within(event);
    zoom(Math.exp(-event.deltaY / 300), fx, fy);
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => {
    const [fx, fy] = within(event);
    if (state.z > 1) fit(); else zoom(4, fx, fy);
  });
  stage.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const box = stage.querySelector(".crop").getBoundingClientRect();
    if (fingers.size === 1) {
      state.x += (event.clientX - before.clientX) / box.width;
      state.y += (event.clientY - before.clientY) / box.height;
      place();
    } else {
      const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
      const gap = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY) || 1;
      zoom(gap(event) / gap(before));
    }
    fingers.set(event.pointerId, event);
  });
  ["pointerup", "pointercancel"].forEach((kind) => stage.addEventListener(kind, (e) => fingers.delete(e.pointerId)));

  $("explore").hidden = false;
  update();
  const asked = /^#\/([^/]+)\/(.+)$/.exec(location.hash);
  if (asked) {
    const name = decodeURIComponent(asked[2]);
    open(state.found.findIndex((row) => row.task === asked[1] && row.name === name));
  }
})();
