// screenshots.mjs OUT: pictures of every page with the example business at
// work, in both colours. URL and TOKEN are in the environment; ONLY=findings,now
// takes those alone.
import { api, browser, password, person, url } from "./world.mjs";

const out = process.argv[2];
const find = async (q) => (await api("GET", "/log/events?limit=1&q=" + encodeURIComponent(q))).events[0];
const denied = (await find("type:call.denied agent:support-assistant tool:helpdesk/send_email")) ?? (await find("type:call.denied"));
const waiting = await api("GET", "/approvals?state=pending&limit=100");
const request = waiting.find((r) => r.tool === "pay_invoice") ?? waiting[0] ?? (await api("GET", "/approvals?limit=1"))[0];
for (const name of ["fiona", "admin"]) await api("PUT", `/users/${name}/password`, { password });
// What seldom happens in the example: a key of nobody that somebody tries, and a lock.
const canary = await api("POST", "/canaries/wiki-page", { kind: "key", where: "an old page of the wiki" });
await fetch(url + "/mcp/helpdesk", { method: "POST", headers: { authorization: "Bearer " + canary.value, "content-type": "application/json" }, body: "{}" });
await api("PUT", "/budgets/invoices", { meter: "effects", agent: "invoice-checker", period: "day", hard: 200, soft: 150, reason: "usually 80" });
await api("PUT", "/budgets/models", { meter: "money", period: "month", hard: 250_000_000, soft: 200_000_000, zone: "Europe/Berlin", reason: "planned for the year" });
await api("PUT", "/budgets/runaway", { meter: "calls", each: "run", period: "total", hard: 500, reason: "no task needs more" });
// until waits for what the example's people and the server do by themselves.
async function until(ask) {
  for (let i = 0; i < 300; i++) {
    const found = await ask();
    if (found) return found;
    await new Promise((r) => setTimeout(r, 100));
  }
  throw new Error("it did not come: " + ask);
}
const finding = await until(async () => (await api("GET", "/findings?limit=100")).find((f) => f.rule === "detection.model.fan-out"));
await until(async () => !(await api("GET", "/posture/progress")).running);
await api("POST", "/posture/run", { reason: "before the audit" });
const [[undone], [incident], cut] = [await api("GET", "/undos"), await api("GET", "/incidents?limit=1"), (await api("GET", "/detections?all=true")).find((d) => d.state === "active")];
const lock = await api("POST", "/locks", { kind: "agent", name: "support-assistant", expires_in: "1h", reason: "it answered a customer with somebody else's order" });
const pages = [["now", "/"], ["approvals", "/approvals"], ["approval", `/approvals/${request.id}`], ["reviews", "/reviews"], ["review", "/reviews/first-review"],
  ["agents", "/agents"], ["agent", "/agents/invoice-checker"], ["releases", "/agents/invoice-checker/releases"], ["release", "/agents/invoice-checker/releases/2"], ["runs", "/runs"], ["run", `/runs/${denied.run}`], ["undos", "/undos"], ["undo", `/undos/${undone.id}`], ["why", `/why/${denied.id}`],
  ["log", "/events?q=decision%3Adeny"], ["event", `/events/${denied.id}`], ["findings", "/findings"], ["finding", `/findings/${finding.id}`], ["detections", "/detections"], ["detected", `/detections/${cut.id}`], ["detection", "/detection"], ["incidents", "/incidents"], ["incident", `/incidents/${incident.id}`], ["posture", "/posture"], ["framework", "/posture/frameworks/nist-csf-2.0?result=FAIL"], ["nhi2", "/posture/requirement?id=NHI-02"], ["pr-aa-05", "/posture/requirement?id=PR.AC-4"], ["asi03", "/posture/requirement?id=AGENT-03"], ["predicate", "/posture/predicates/E7"], ["inventory", "/inventory"],
  ["connections", "/connections"], ["connection", "/connections/ledger"], ["tool", "/connections/ledger/tools/pay_invoice"], ["grants", "/grants"],
  ["policies", "/policies"], ["policy", "/policies/payments"], ["history", "/policies/payments/history"], ["budgets", "/budgets"], ["budget", "/budgets/models"], ["locks", "/locks"], ["lock", `/locks/${lock.id}`], ["people", "/people"], ["user", "/people/fiona"], ["settings", "/settings"], ["profile", "/profile"], ["setup", "/setup"]];
const only = process.env.ONLY?.split(",");
for (const colorScheme of ["light", "dark"]) {
  const options = { colorScheme, viewport: { width: 1280, height: 800 } };
  const stranger = await person("", options);
  await stranger.goto(url + "/sign-in");
  await stranger.screenshot({ path: `${out}/sign-in-${colorScheme}.png` });
  let page = await person("fiona", options);
  for (const [name, path] of pages) {
    if (name === "agents") page = await person("admin", options);
    if (only && !only.includes(name)) continue;
    await page.goto(url + path, { waitUntil: "load" });
    if (name === "event" || name === "predicate") { await page.click("#verify-now"); await page.locator("#verify[data-result]").waitFor(); }
    await page.waitForTimeout(400);
    await page.screenshot({ path: `${out}/${name}-${colorScheme}.png` });
  }
  for (const context of browser.contexts()) await context.close();
}
await browser.close();
