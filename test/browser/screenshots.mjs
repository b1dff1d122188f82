// screenshots.mjs OUT: pictures of every page with the example business at
// work, the main ones in both colours. URL and TOKEN are in the environment.
import { api, browser, password, person, url } from "./world.mjs";

const out = process.argv[2];
const find = async (q) => (await api("GET", "/log/events?limit=1&q=" + encodeURIComponent(q))).events[0];
const denied = await find("type:call.denied");
const request = (await api("GET", "/approvals?state=pending&limit=1"))[0] ?? (await api("GET", "/approvals?limit=1"))[0];
for (const name of ["fiona", "admin"]) await api("PUT", `/users/${name}/password`, { password });
const pages = [["now", "/"], ["approvals", "/approvals"], ["approval", `/approvals/${request.id}`], ["agents", "/agents"], ["agent", "/agents/invoice-checker"], ["runs", "/runs"], ["run", `/runs/${denied.run}`],
  ["log", "/events?q=decision%3Adeny"], ["event", `/events/${denied.id}`], ["findings", "/findings"], ["connections", "/connections"], ["connection", "/connections/ledger"], ["policies", "/policies"], ["policy", "/policies/payments"],
  ["locks", "/locks"], ["people", "/people"], ["settings", "/settings"], ["profile", "/profile"], ["setup", "/setup"]];
const main = ["now", "approval", "agent", "run", "event", "policy"]; // the others are alike in the dark
for (const colorScheme of ["light", "dark"]) {
  const options = { colorScheme, viewport: { width: 1280, height: 800 } };
  const stranger = await person("", options);
  await stranger.goto(url + "/sign-in");
  await stranger.screenshot({ path: `${out}/sign-in-${colorScheme}.png` });
  let page = await person("fiona", options);
  for (const [name, path] of pages) {
    if (name === "agents") page = await person("admin", options);
    if (colorScheme === "dark" && !main.includes(name)) continue;
    await page.goto(url + path, { waitUntil: "load" });
    if (name === "event") { await page.click("#verify-now"); await page.locator("#verify[data-result]").waitFor(); }
    await page.waitForTimeout(400);
    await page.screenshot({ path: `${out}/${name}-${colorScheme}.png` });
  }
  for (const context of browser.contexts()) await context.close();
}
await browser.close();
