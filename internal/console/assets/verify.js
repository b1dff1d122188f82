// Verifies one record of the log in the browser, with nothing but the published
// checkpoint and tiles (C2SP tlog-tiles, tlog-checkpoint; RFC 6962) and the
// log's key. docs/proof-format.md says what is checked.
"use strict";
(() => {
  const at = document.getElementById("verify");
  if (!at) return;
  const steps = document.getElementById("verify-steps");
  const button = document.getElementById("verify-now");
  const utf8 = new TextEncoder();
  const unbase64 = (s) => Uint8Array.from(atob(s), (c) => c.charCodeAt(0));
  const base64 = (b) => btoa(String.fromCharCode(...b));
  const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
  const concat = (...parts) => { const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0)); let i = 0; for (const p of parts) { out.set(p, i); i += p.length; } return out; };
  const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));
  const leafHash = (record) => sha256(Uint8Array.of(0), record);
  const nodeHash = (l, r) => sha256(Uint8Array.of(1), l, r);

  function say(good, what, more) {
    const li = document.createElement("li");
    li.className = good ? "good" : "bad";
    const b = document.createElement("b");
    b.textContent = (good ? "✓ " : "✗ ") + what;
    li.append(b);
    if (more) { const s = document.createElement("small"); s.textContent = more; li.append(document.createElement("br"), s); }
    steps.append(li);
  }

  // A key is name+hash+base64(0x01, Ed25519 key); the hash is the beginning of
  // SHA-256(name, "\n", 0x01, key).
  async function openKey(vkey) {
    const m = vkey.match(/^([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/);
    if (!m) throw new Error("the key has not the form name+hash+key");
    const data = unbase64(m[3]);
    if (data.length !== 33 || data[0] !== 1) throw new Error("the key is no Ed25519 key");
    const sum = (await sha256(utf8.encode(m[1] + "\n"), data)).slice(0, 4);
    const hash = [...sum].map((x) => x.toString(16).padStart(2, "0")).join("");
    if (hash !== m[2]) throw new Error("the key's hash is not that of the key");
    return { name: m[1], sum, vkey, key: await crypto.subtle.importKey("raw", data.slice(1), "Ed25519", false, ["verify"]) };
  }

  // A signed note: text, a blank line, and lines "— name base64(hash, signature)".
  function openNote(note) {
    const i = note.lastIndexOf("\n\n");
    if (i < 0) throw new Error("it is no signed note");
    const sigs = note.slice(i + 2).split("\n").filter(Boolean).map((l) => {
      const m = l.match(/^\u2014 (\S+) (\S+)$/);
      if (!m) throw new Error("a signature has another form");
      const b = unbase64(m[2]);
      return { name: m[1], sum: b.slice(0, 4), sig: b.slice(4) };
    });
    return { text: note.slice(0, i + 1), sigs };
  }
  async function signed(n, key) {
    for (const s of n.sigs) {
      if (s.name === key.name && same(s.sum, key.sum) && await crypto.subtle.verify("Ed25519", key.key, s.sig, utf8.encode(n.text))) return true;
    }
    return false;
  }

  // From the first key to the one that signs now: each replacement is signed by both.
  async function keys(first, rotations) {
    const all = [await openKey(first)];
    for (const r of rotations) {
      const n = openNote(r), old = all[all.length - 1];
      const lines = n.text.split("\n");
      if (lines[0] !== "countersign key rotation v1" || lines[1] !== old.name) throw new Error("a key's replacement has another form");
      const next = await openKey(lines[3]);
      if (!await signed(n, old) || !await signed(n, next)) throw new Error("a key's replacement is not signed by both keys");
      old.until = BigInt(lines[2]);
      all.push(next);
    }
    return all;
  }

  async function get(path) {
    const r = await fetch("/log/" + path, { cache: "no-cache" });
    if (!r.ok) throw new Error(`/log/${path}: ${r.status}`);
    return r;
  }

  // Hashes of complete subtrees, from tiles: each holds 256 hashes of a level of eight.
  const tiles = new Map();
  async function tile(level, n, size) {
    const full = size >> BigInt(8 * level), width = full - n * 256n < 256n ? Number(full - n * 256n) : 256;
    let path = String(n % 1000n).padStart(3, "0");
    for (let rest = n / 1000n; rest > 0n; rest /= 1000n) path = `x${String(rest % 1000n).padStart(3, "0")}/${path}`;
    path = `tile/${level}/${path}` + (width < 256 ? `.p/${width}` : "");
    if (!tiles.has(path)) {
      const b = new Uint8Array(await (await get(path)).arrayBuffer());
      if (b.length !== 32 * width) throw new Error(`/log/${path} has ${b.length} bytes, not ${32 * width}`);
      tiles.set(path, b);
    }
    return tiles.get(path);
  }
  async function subtree(level, index, size) {
    const in_ = level % 8, up = (level - in_) / 8, first = index << BigInt(in_);
    const b = await tile(up, first / 256n, size);
    let row = [];
    for (let i = 0; i < 1 << in_; i++) { const o = 32 * (Number(first % 256n) + i); row.push(b.slice(o, o + 32)); }
    while (row.length > 1) { const next = []; for (let i = 0; i < row.length; i += 2) next.push(await nodeHash(row[i], row[i + 1])); row = next; }
    return row[0];
  }
  const split = (n) => { let k = 1n; while (k * 2n < n) k *= 2n; return k; };
  async function mth(lo, hi, size) {
    const n = hi - lo;
    if ((n & (n - 1n)) === 0n) { let level = 0; while (1n << BigInt(level) < n) level++; return subtree(level, lo >> BigInt(level), size); }
    const k = split(n);
    return nodeHash(await mth(lo, lo + k, size), await mth(lo + k, hi, size));
  }
  // The root, from our own leaf and the siblings on its way up.
  let siblings = 0;
  async function rootFrom(leaf, index, lo, hi, size) {
    if (hi - lo === 1n) return leaf;
    const mid = lo + split(hi - lo);
    siblings++;
    return index < mid ? nodeHash(await rootFrom(leaf, index, lo, mid, size), await mth(mid, hi, size)) : nodeHash(await mth(lo, mid, size), await rootFrom(leaf, index, mid, hi, size));
  }

  // A result of posture: the record of its run holds the digest of its bytes.
  async function holds(record, result) {
    const text = new TextDecoder();
    const { id } = JSON.parse(text.decode(result));
    const digest = [...await sha256(result)].map((x) => x.toString(16).padStart(2, "0")).join("");
    const said = JSON.parse(text.decode(record)).detail?.results?.find((r) => r.evidence === id);
    if (said?.digest !== digest) throw new Error(`the record holds another digest for this result: ${said?.digest}`);
    say(true, "The record holds this result's digest", digest);
  }

  async function verify() {
    if (!window.isSecureContext) throw new Error("browsers compute hashes only for pages over https or from this machine; use countersign log verify");
    const record = unbase64(at.dataset.record), index = BigInt(at.dataset.index);
    if (at.dataset.evidence) await holds(record, unbase64(at.dataset.evidence));
    const remembered = "log-key";
    const trusted = localStorage.getItem(remembered);
    const chain = await keys(at.dataset.key, JSON.parse(at.dataset.rotations));
    if (trusted && !chain.some((k) => k.vkey === trusted)) throw new Error(`the log's key is not the one that this browser saw first: ${trusted}`);
    localStorage.setItem(remembered, trusted ?? at.dataset.key);
    say(true, "The key", (trusted ? "the one that this browser knows: " : "noted for the next time; compare it with the one you were given: ") + at.dataset.key);

    const note = openNote(await (await get("checkpoint")).text());
    const [origin, size_, root_] = note.text.split("\n");
    const size = BigInt(size_), root = unbase64(root_);
    let by;
    for (const k of chain) if (k.name === origin && (k.until === undefined || size <= k.until) && await signed(note, k)) by = k;
    if (!by) throw new Error("the checkpoint is not signed by the log's key");
    say(true, "The checkpoint is signed", `${origin}, ${size} records, root ${root_}`);

    const leaf = await leafHash(record);
    say(true, "The record's own hash", base64(leaf));
    if (index >= size) throw new Error("the record is not beneath this checkpoint yet; try again in a second");
    if (!same(leaf, await subtree(0, index, size))) throw new Error("the log's tile holds another hash at its place");
    say(true, "The log's tile holds it", `at index ${index}`);
    const found = await rootFrom(leaf, index, 0n, size, size);
    if (!same(found, root)) throw new Error("the way up from the record leads to another root than the one that is signed");
    say(true, "The way up leads to the signed root", `${siblings} sibling hashes, from ${tiles.size} ${tiles.size === 1 ? "tile" : "tiles"}`);
  }

  button.addEventListener("click", async () => {
    button.disabled = true;
    steps.textContent = "";
    siblings = 0;
    tiles.clear();
    try {
      await verify();
      say(true, `Proven: this ${at.dataset.evidence ? "result" : "event"} is in the log as it is shown, and cannot have been changed since.`, "");
      at.dataset.result = "good";
    } catch (e) {
      say(false, "Not proven", e.name === "NotSupportedError" ? "this browser has no Ed25519; use countersign log verify" : e.message);
      at.dataset.result = "bad";
    }
    button.disabled = false;
  });
})();
