// What the scripts share: a browser, people in it, and checks that say where they fail.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
export const url = process.env.URL;
export const password = "correct horse battery";
export const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });

const problems = [];
export function check(good, what, more = "") {
  console.log(`${good ? "ok  " : "FAIL"} ${what}${good || !more ? "" : `: ${more}`}`);
  if (!good) problems.push(what);
}

// A person's browser. What the console logs, violations of its own policy
// included, and any dialog is a failure.
export async function person(name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  context.setDefaultTimeout(Number(process.env.WAIT ?? 120000)); // a busy machine is slow, and no failure
  const page = await context.newPage();
  page.noise = [];
  page.on("console", (m) => { if (m.type() === "error" && !/status of (4\d\d)/.test(m.text())) page.noise.push(m.text()); });
  page.on("pageerror", (e) => page.noise.push(e.message));
  page.on("dialog", async (d) => { page.noise.push("dialog: " + d.message()); await d.dismiss(); });
  if (name) await signIn(page, name);
  return page;
}

export async function signIn(page, name) {
  await page.goto(url + "/sign-in");
  await page.fill("#name", name);
  await page.fill("#password", password);
  await page.click("form button.primary");
  await page.waitForURL(url + "/");
}

// Serious or critical violations of WCAG, as axe sees them.
export async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return found.violations.filter((v) => v.impact === "serious" || v.impact === "critical").map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.target.join(" ") + " " + (n.any[0]?.message ?? "")).join("; ")}`);
}

// Nothing of what was written by others became a part of the page.
export const harmed = (page) => page.evaluate(() => (window.pwned !== undefined ? "a script ran; " : "") + [...document.querySelectorAll("img, iframe, object, script:not([src]), a[href*='evil'], [onerror], [style*='expression']")].map((x) => x.outerHTML.slice(0, 80)).join("; "));

// How far what stands on a page moves by itself (cumulative layout shift).
export const watchShifts = (page) => page.addInitScript(() => {
  window.moved = 0;
  new PerformanceObserver((list) => { for (const e of list.getEntries()) if (!e.hadRecentInput) window.moved += e.value; }).observe({ type: "layout-shift", buffered: true });
});
export const shifted = (page) => page.evaluate(() => window.moved);

export const tooWide = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

// The API, as the administrator; and an agent's call of a tool.
export async function api(method, path, body) {
  const r = await fetch(url + "/api/v1" + path, { method, headers: { authorization: "Bearer " + process.env.TOKEN, "content-type": "application/json", "x-countersign-reason": "test" }, body: body && JSON.stringify(body) });
  const text = await r.text();
  if (!r.ok) throw new Error(`${method} ${path}: ${r.status} ${text}`);
  return text ? JSON.parse(text) : undefined;
}
let calls = 0;
// raw is another spelling of the same arguments, in JSON: another request of the same shape.
export const call = (number, raw = JSON.stringify({ number })) => send("get_ticket", raw);
export const callTool = (tool, args) => send(tool, JSON.stringify(args));
async function send(tool, raw) {
  const r = await fetch(url + "/mcp/helpdesk", { method: "POST", headers: { authorization: "Bearer " + process.env.AGENT_KEY, "content-type": "application/json", accept: "application/json, text/event-stream" },
    body: `{"jsonrpc":"2.0","id":${++calls},"method":"tools/call","params":{"name":"${tool}","arguments":${raw}}}` });
  return r.text();
}

export async function end() {
  await browser.close();
  if (problems.length) {
    console.log(`\n${problems.length} failed:\n  ${problems.join("\n  ")}`);
    process.exit(1);
  }
}
