// look.mjs URL TOKEN OUT PATH...: pictures of pages, for people who change them.
import { chromium } from "playwright-core";
const [url, token, out, ...paths] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
for (const scheme of (process.env.SCHEMES ?? "light,dark").split(",")) for (const width of (process.env.WIDTHS ?? "1280").split(",").map(Number)) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width, height: 860 } });
  const page = await context.newPage();
  page.on("console", (m) => { if (m.type() === "error" || m.type() === "warning") console.log(scheme, width, m.text()); });
  page.on("pageerror", (e) => console.log("pageerror", e.message));
  await page.goto(url + "/sign-in#" + token);
  if (paths.includes("/sign-in")) await page.screenshot({ path: `${out}/sign-in-${scheme}-${width}.png` });
  await page.click("#with-token button");
  await page.waitForURL(url + "/");
  for (const p of paths) {
    if (p === "/sign-in") continue;
    const r = await page.goto(url + p, { waitUntil: "load" });
    await page.waitForTimeout(500);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0 || r.status() !== 200) console.log(p, "status", r.status(), "too wide by", wide);
    await page.screenshot({ path: `${out}/${(p.replace(/[^a-z0-9]+/gi, "-").replace(/^-|-$/g, "") || "now").slice(0, 40)}-${scheme}-${width}.png`, fullPage: true });
  }
  await context.close();
}
await browser.close();
