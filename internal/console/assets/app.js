// What is live, what the keyboard does, and times that move on. Pages work
// without it; it decides nothing.
"use strict";
(() => {
  const $ = (q, in_ = document) => in_.querySelector(q);
  const all = (q, in_ = document) => [...in_.querySelectorAll(q)];
  const body = document.body;

  // Times. The same words as span in render.go.
  const span = (s) => s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min` : s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} d`;
  function tick() {
    for (const t of all("time[data-relative]")) {
      const s = Math.floor((Date.now() - Date.parse(t.dateTime)) / 1000);
      const words = s < 0 ? `in ${span(-s)}` : s < 5 ? "now" : `${span(s)} ago`;
      if (t.textContent !== words) t.textContent = words;
    }
  }
  setInterval(tick, 5000);

  // How much waits: title, icon, navigation, a notification.
  const plain = document.title.replace(/^\(\d+\) /, "");
  const icon = $("link[rel=icon]");
  const iconPlain = icon?.href;
  let known = Number(body.dataset.live ?? 0), newest = "";
  function paint(n) {
    document.title = (n ? `(${n}) ` : "") + plain;
    if (icon) icon.href = n ? "data:image/svg+xml," + encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="9" fill="#b45309"/><text x="16" y="23" font-family="system-ui,sans-serif" font-size="${n > 9 ? 17 : 20}" font-weight="700" text-anchor="middle" fill="#fff">${n > 99 ? "99" : n}</text></svg>`) : iconPlain;
    const c = $("#waiting-count");
    if (c) { c.hidden = !n; c.firstElementChild.textContent = n; }
  }
  function waiting(w) {
    if (w.count > known || (w.newest && newest && w.newest > newest)) {
      say(w.count === 1 ? "One request waits for you." : `${w.count} requests wait for you.`);
      notify(w);
    }
    known = w.count;
    newest = w.newest || newest;
    paint(w.count);
  }
  function say(text) { const a = $("#announce"); if (a) a.textContent = text; }
  function notify(w) {
    if (!("Notification" in window) || Notification.permission !== "granted" || !document.hidden) return;
    const n = new Notification("Countersign: your decision is needed", { body: w.what, tag: "approvals" });
    n.onclick = () => { window.focus(); location.href = "/approvals/" + encodeURIComponent(w.newest); };
  }

  // The stream. A hidden page gives its connection back, unless it is to notify.
  let stream, paused = false;
  const list = $("#calls");
  const held = [];
  function connect() {
    if (!("live" in body.dataset) || stream) return;
    const q = new URLSearchParams();
    if (list) { q.set("calls", "1"); q.set("q", list.dataset.query); }
    stream = new EventSource("/live?" + q);
    stream.addEventListener("waiting", (e) => waiting(JSON.parse(e.data)));
    stream.addEventListener("changed", (e) => body.dispatchEvent(new Event(e.data)));
    stream.addEventListener("calls", (e) => { if (paused) { held.push(e.data); if (held.length > 50) held.shift(); } else add(e.data); });
  }
  function disconnect() { stream?.close(); stream = undefined; }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) { connect(); body.dispatchEvent(new Event("approvals")); } else if (!("Notification" in window) || Notification.permission !== "granted") disconnect();
  });
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", connect);

  const most = 40;
  function add(html) {
    const t = document.createElement("template");
    t.innerHTML = html;
    for (const row of [...t.content.children]) {
      const old = document.getElementById(row.id);
      if (old) { old.replaceWith(row); continue; }
      row.classList.add("fresh");
      list.prepend(row);
    }
    while (list.children.length > most) list.lastElementChild.remove();
    const none = $("#no-calls");
    if (none) none.hidden = true;
  }
  $("#pause")?.addEventListener("click", (e) => {
    paused = !paused;
    const b = e.currentTarget;
    b.setAttribute("aria-pressed", paused);
    $(".word", b).textContent = paused ? "Paused" : "Live";
    if (!paused) held.splice(0).forEach(add);
  });

  // The chart of calls per minute.
  function chart() {
    const at = $("#chart");
    if (!at || typeof uPlot === "undefined") return;
    let m;
    const data = () => {
      m = JSON.parse($("#minutes").dataset.minutes);
      return [m.map((x) => x.t), m.map((x) => x.calls || null), m.map((x) => x.held + x.refused || null), m.map((x) => x.refused || null), m.map((x) => x.added || null)];
    };
    const css = getComputedStyle(document.documentElement);
    const probe = document.createElement("i");
    at.append(probe);
    const colour = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
    const [ink, line, accent, bad, wait] = ["--ink-2", "--line", "--accent", "--bad", "--wait"].map(colour);
    probe.remove();
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif" };
    const whole = (of) => (_u, _v, _s, i) => i == null ? "–" : m[i][of]; // bars stand before each other: what is shown of one is its own
    const bars = uPlot.paths.bars({ size: [0.7, 14] });
    const clock = (s) => new Date(1000 * s).toTimeString().slice(0, 5);
    const u = new uPlot({
      width: at.clientWidth, height: 160, cursor: { y: false },
      scales: { y: { range: (_, lo, hi) => [0, Math.max(4, hi * 1.1)] }, ms: { range: (_, lo, hi) => [0, Math.max(0.1, hi * 1.3)] } },
      axes: [{ ...axis, values: (_, v) => v.map(clock) }, { ...axis, size: 44 }, { ...axis, scale: "ms", side: 1, grid: { show: false }, size: 68, values: (_, v) => v.map((x) => `${x} ms`) }],
      series: [{ label: "at", value: (_, v) => v == null ? "–" : clock(v) }, { label: "calls", stroke: accent, fill: accent, paths: bars, points: { show: false }, value: whole("calls") }, { label: "held", stroke: wait, fill: wait, paths: bars, points: { show: false }, value: whole("held") },
        { label: "refused", stroke: bad, fill: bad, paths: bars, points: { show: false }, value: whole("refused") },
        { label: "deciding (median)", scale: "ms", stroke: ink, width: 2, spanGaps: true, points: { show: true, size: 7, fill: ink }, value: (_, v) => v == null ? "–" : `${v.toFixed(2)} ms` }],
    }, data(), at);
    new MutationObserver(() => u.setData(data())).observe($("#hour"), { subtree: true, childList: true, attributeFilter: ["data-minutes"] });
    new ResizeObserver(() => u.setSize({ width: at.clientWidth, height: 160 })).observe(at);
  }
  chart();
  if ($("#hour")) setInterval(() => { if (!document.hidden) body.dispatchEvent(new Event("hour")); }, 15000);

  // The keyboard.
  const rows = () => all(".row-link");
  let at = -1, leader = false;
  function move(by) {
    const r = rows();
    if (!r.length) return;
    at = Math.max(0, Math.min(r.length - 1, (r.includes(document.activeElement) ? r.indexOf(document.activeElement) : at) + by));
    all(".at").forEach((x) => x.classList.remove("at"));
    r[at].closest("li, tr")?.classList.add("at");
    r[at].focus();
  }
  const places = { n: "/", a: "/approvals", g: "/agents", r: "/runs", l: "/events" };
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const typing = e.target.closest("input, textarea, select, [contenteditable]");
    if (typing) { if (e.key === "Escape") typing.blur(); return; }
    if (document.querySelector("dialog[open]")) return;
    if (leader) { leader = false; if (places[e.key]) { e.preventDefault(); location.href = places[e.key]; } return; }
    switch (e.key) {
      case "j": move(1); break;
      case "k": move(-1); break;
      case "g": leader = true; setTimeout(() => { leader = false; }, 1500); break;
      case "/": { const f = $("#filter"); if (f) { e.preventDefault(); f.focus(); f.select(); } break; }
      case "?": $("#keys")?.showModal(); break;
      case "p": $("#pause")?.click(); break;
      case "a": case "d": {
        const b = $(`#decision [data-key="${e.key}"]`);
        if (!b) break;
        e.preventDefault();
        const why = $("#reason");
        if (why.value.trim()) { b.focus(); } else { why.focus(); }
        why.dataset.then = e.key;
        break;
      }
    }
  });
  // Enter in the reason decides nothing by itself: the button that was asked for takes the focus.
  document.addEventListener("keydown", (e) => {
    if (e.key !== "Enter" || e.target.id !== "reason") return;
    e.preventDefault();
    const then = e.target.dataset.then;
    if (e.target.reportValidity()) $(`#decision [data-key="${then ?? "a"}"]`)?.focus();
  });

  // This browser's own choices.
  for (const r of all("#theme input")) {
    r.checked = r.value === (document.documentElement.dataset.theme ?? "");
    r.addEventListener("change", () => {
      if (r.value) { document.documentElement.dataset.theme = r.value; localStorage.setItem("theme", r.value); } else { delete document.documentElement.dataset.theme; localStorage.removeItem("theme"); }
    });
  }
  const ask = $("#notify");
  if (ask && "Notification" in window) {
    const state = () => { ask.hidden = Notification.permission !== "default"; $("#notify-state").textContent = { granted: "This browser notifies you.", denied: "Notifications are blocked in this browser's settings.", default: "" }[Notification.permission]; };
    ask.addEventListener("click", async () => { await Notification.requestPermission(); state(); });
    state();
  }

  // Copying what is shown once.
  for (const b of all("[data-copy]")) b.addEventListener("click", async () => {
    const field = document.getElementById(b.dataset.copy);
    field.select?.();
    await navigator.clipboard?.writeText(field.value ?? field.textContent);
    b.textContent = "Copied";
  });

  // A link of the first start carries the token behind the #, which no server sees.
  const given = location.hash.match(/^#(csu_[A-Za-z0-9_-]+)$/);
  if (given && $("#token")) {
    $("#with-token").open = true;
    $("#token").value = given[1];
    history.replaceState(null, "", location.pathname + location.search);
    $("#with-token button").focus();
  }
})();
