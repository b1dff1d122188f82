// Passkeys, with Chromium's own virtual authenticator: registered in the profile,
// demanded by a request, refused to who has none.
import { api, call, check, end, harmed, person, tooWide, url, violations } from "./world.mjs";

// An authenticator that verifies its person, in a page's browser.
async function authenticator(page) {
  const cdp = await page.context().newCDPSession(page);
  await cdp.send("WebAuthn.enable");
  const { authenticatorId } = await cdp.send("WebAuthn.addVirtualAuthenticator", { options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true } });
  return { verified: (is) => cdp.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified: is }) };
}
const looks = async (page, name) => {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" }); // colours that are still changing are nobody's
    const found = await violations(page);
    check(found.length === 0, `${name}, ${colorScheme}: no serious violation`, found.join(" | "));
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/${name}-${colorScheme}.png`, fullPage: true });
  }
  check(await harmed(page) === "", `${name}: harmless`);
  await page.setViewportSize({ width: 375, height: 740 });
  check(await tooWide(page) <= 0, `${name}: fits a phone`);
  await page.setViewportSize({ width: 1280, height: 860 });
};

const fiona = await person("fiona");
const key = await authenticator(fiona);
await fiona.goto(url + "/profile");
check(await fiona.locator("#no-passkeys").count() === 1, "nobody has a passkey at first");
await key.verified(false);
await fiona.fill("#passkey-name", "laptop");
await fiona.click("#new-passkey button");
await fiona.locator("#new-passkey .passkey-problem").waitFor();
check(true, "a device that does not verify its person registers nothing");
await key.verified(true);
await fiona.click("#new-passkey button");
await fiona.locator(".said.good:has-text('laptop')").waitFor();
check(true, "a passkey is registered");
await fiona.fill("#passkey-name", "again");
await fiona.click("#new-passkey button");
await fiona.locator("#new-passkey .passkey-problem:has-text('already')").waitFor();
check(true, "the same device is not registered twice");
await fiona.click("details summary:has-text('Rename or remove')");
await fiona.fill("input[id^=name-psk]", "<b>desk</b>");
await fiona.click("button:has-text('Rename')");
await fiona.locator(".said.good:has-text('<b>desk</b>')").waitFor();
check(true, "a passkey is renamed");
await looks(fiona, "profile");

await call("T-1001");
const [held] = await api("GET", "/approvals?state=pending");
check(Boolean(held), "a call is held");

// carl is asked too, and has no passkey.
const carl = await person("carl");
await carl.goto(`${url}/approvals/${held.id}`);
check((await carl.textContent("#no-passkey")).includes("you have none"), "who has no passkey is told so");
await looks(carl, "approval-none");
await carl.fill("#reason", "looks right");
await carl.click("#decision button[value=approve]");
await carl.locator(".passkey-problem:has-text('you have none')").waitFor();
check((await api("GET", `/approvals/${held.id}`)).state === "pending", "and approves nothing");

await fiona.goto(`${url}/approvals/${held.id}`);
check(await fiona.locator("#no-passkey").count() === 0, "who has one is not told that they have none");
await looks(fiona, "approval");
await key.verified(false);
await fiona.fill("#reason", "looks right");
await fiona.click("#decision button[value=approve]");
await fiona.locator(".passkey-problem").waitFor();
check((await api("GET", `/approvals/${held.id}`)).state === "pending", "an unverified person approves nothing");
await key.verified(true);
await fiona.click("#decision button[value=approve]");
await fiona.locator(".said.good:has-text('Approved')").waitFor();
check((await fiona.textContent(".votes")).includes("signed with a passkey"), "approved, with a passkey");
const decided = await api("GET", `/approvals/${held.id}`);
check(decided.state === "approved" && decided.decisions[0].passkey, "and the API says so");
await looks(fiona, "approved");

// A browser without passkeys says so.
await call("T-1002");
const [next] = await api("GET", "/approvals?state=pending");
await carl.addInitScript(() => { delete window.PublicKeyCredential; });
await carl.goto(`${url}/approvals/${next.id}`);
await carl.fill("#reason", "looks right");
await carl.click("#decision button[value=approve]");
await carl.locator(".passkey-problem:has-text('This browser has no passkeys')").waitFor();
check(true, "a browser without passkeys says so");
await carl.click("#decision button[value=deny]");
await carl.locator(".said.good:has-text('Denied')").waitFor();
check(true, "to deny takes none");

// One signature is over one request: many are denied at once, and approved one by one.
await call("T-1003");
await call("T-1003", '{"number":"T-\\u0031003"}');
await fiona.goto(url + "/approvals?box=mine");
await fiona.click(".bulk summary");
check(await fiona.locator(".bulk button[value=approve]").count() === 0 && (await fiona.textContent(".bulk")).includes("one by one"), "what takes a passkey is not approved at once");
await fiona.fill("#bulk-reason", "neither");
const refused = await fiona.evaluate(async () => {
  const form = new URLSearchParams(new FormData(document.querySelector(".bulk form")));
  form.set("verdict", "approve");
  const r = await fetch("/approvals", { method: "POST", body: form });
  return r.status + (await r.text());
});
check(refused.startsWith("422") && refused.includes("signs each request by itself") && (await api("GET", "/approvals?state=pending")).length === 2, "nor by a form made by hand");
await fiona.click(".bulk button[value=deny]");
await fiona.locator(".said.good:has-text('2 requests decided')").waitFor();
check((await api("GET", "/approvals?state=pending")).length === 0, "and is denied at once");

await fiona.goto(url + "/profile");
await fiona.click("details summary:has-text('Rename or remove')");
await fiona.click("button:has-text('Remove')");
await fiona.locator(".said.good:has-text('removed')").waitFor();
check(await fiona.locator("#no-passkeys").count() === 1, "a passkey is removed");
check(fiona.noise.length + carl.noise.length === 0, "no page complains", [...fiona.noise, ...carl.noise].join(" | "));
await end();
