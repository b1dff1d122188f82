// screenshots.mjs OUT: pictures of every page with the example business at
// work, light and dark. URL and TOKEN are in the environment.
import { api, browser, password, signIn, url } from "./world.mjs";

const out = process.argv[2];
const find = async (q) => (await api("GET", "/log/events?limit=1&q=" + encodeURIComponent(q))).events[0];
const denied = await find("type:call.denied");
const request = (await api("GET", "/approvals?state=pending&limit=1"))[0] ?? (await api("GET", "/approvals?limit=1"))[0];
for (const name of ["fiona", "admin"]) await api("PUT", `/users/${name}/password`, { password });
const pages = [["now", "/"], ["approvals", "/approvals"], ["approval", `/approvals/${request.id}`], ["agents", "/agents"], ["agent", "/agents/invoice-checker"], ["runs", "/runs"], ["run", `/runs/${denied.run}`],
  ["log", "/events?q=decision%3Adeny"], ["event", `/events/${denied.id}`], ["findings", "/findings"], ["connections", "/connections"], ["connection", "/connections/ledger"], ["policies", "/policies"], ["policy", "/policies/payments"],
  ["locks", "/locks"], ["people", "/people"], ["settings", "/settings"], ["profile", "/profile"], ["setup", "/setup"]];
for (const colorScheme of ["light", "dark"]) {
  const context = await browser.newContext({ colorScheme, viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  await page.goto(url + "/sign-in");
  await page.screenshot({ path: `${out}/sign-in-${colorScheme}.png` });
  await signIn(page, "fiona");
  for (const [name, path] of pages) {
    if (name === "agents") { await context.clearCookies(); await signIn(page, "admin"); }
    await page.goto(url + path, { waitUntil: "load" });
    if (name === "event") { await page.click("#verify-now"); await page.locator("#verify[data-result]").waitFor(); }
    await page.waitForTimeout(400);
    await page.screenshot({ path: `${out}/${name}-${colorScheme}.png` });
  }
  await context.close();
}
await browser.close();
