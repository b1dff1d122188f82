// Posture in the browser: computed, followed from a requirement in anybody's
// spelling down to what breaks it and the proof, and seen to refuse an altered result.
import { check, url } from "./world.mjs";

async function verified(page) {
  for (let i = 0; i < 120 && !await page.locator("#verify-now").count(); i++) { // it is sealed in about a second
    await page.waitForTimeout(250);
    await page.reload();
  }
  await page.click("#verify-now");
  await page.locator("#verify[data-result]").waitFor();
  return page.getAttribute("#verify", "data-result");
}

export async function posture(admin, viewer) {
  await admin.goto(url + "/posture");
  check(/Nothing was computed yet/.test(await admin.textContent("#posture")), "that nothing was computed is said");
  await admin.fill("#run-reason", "before the audit");
  await admin.click("button:has-text('Compute')");
  await admin.locator("#posture:has-text('computed 12 predicates')").waitFor();
  check(await admin.locator("#table tbody tr").count() === 12 && await admin.locator("#table tbody td:last-child time").count() === 12, "posture is computed, and the page follows it");
  await admin.click("#table th a:has-text('Result')");
  check(/fails|no data/.test(await admin.locator("#table tbody .badge").first().textContent()), "the worst comes first");
  const csv = await admin.evaluate(async () => (await fetch("/posture?as=csv")).text());
  check(csv.startsWith("predicate,result,") && csv.trim().split("\n").length === 13, "predicates are exported");

  const paths = ["/posture", "/posture/frameworks/nist-csf-2.0", "/posture/frameworks/soc2?days=365"];
  for (const [given, read, says] of [["NHI-02", "NHI2:2025", "a spelling of NHI2:2025"], ["PR.AC-4", "PR.AA-05", "moved to PR.AA-05"], ["AGENT-03", "ASI03", "is no identifier of OWASP"]]) {
    await admin.goto(url + "/posture");
    await admin.fill("input[name=id]", given);
    await admin.keyboard.press("Enter");
    await admin.waitForURL(/requirement\?id=/);
    const text = (await admin.textContent("main")).replace(/\s+/g, " ");
    check(text.includes(`You asked for ${given}`) && text.includes(says) && (await admin.textContent("h1")).startsWith(read), `${given} is read as ${read}, openly`, text);
    paths.push(new URL(admin.url()).pathname + new URL(admin.url()).search);
    await admin.keyboard.press("j"); // the keyboard alone, to the first predicate
    await admin.keyboard.press("Enter");
    await admin.waitForURL(/predicates\/E/);
    check(await verified(admin) === "good" && /record holds this result's digest/.test(await admin.textContent("#verify-steps")), `${read}: the browser verifies its evidence down to the log`, await admin.textContent("#verify-steps"));
    await admin.click("a:has-text('The event of its run')");
    await admin.waitForURL(/events\/evt_/);
    check(await verified(admin) === "good" && (await admin.textContent("h1")) === "posture.evaluated", `${read}: and the event of its run`);
    await admin.goBack();
  }
  paths.push("/posture/predicates/E5", "/posture/predicates/E7");

  await admin.goto(url + "/posture/predicates/E7");
  await verified(admin);
  await admin.evaluate(() => { const v = document.getElementById("verify"); v.dataset.evidence = btoa(atob(v.dataset.evidence).replace('"violated":0', '"violated":9')); delete v.dataset.result; });
  await admin.click("#verify-now");
  await admin.locator("#verify[data-result]").waitFor();
  check(await admin.getAttribute("#verify", "data-result") === "bad", "a result that was changed is refused", await admin.textContent("#verify-steps"));

  // What breaks a predicate leads to the object and to events.
  await admin.goto(url + "/posture/predicates/E5");
  const wrong = admin.locator(".check-of table tbody tr").first();
  check(await wrong.count() === 1 && (await wrong.locator("a").first().getAttribute("href")).startsWith("/grants"), "what breaks it leads to the object");
  await wrong.locator("td:nth-child(3) a").first().click();
  await admin.waitForURL(/\/events/);
  check(await admin.locator("#table tbody tr, #event").count() > 0, "and to the log's events about it");
  await admin.goto(url + "/posture/predicates/E5");
  await admin.locator("table[data-small=trend] tbody a").first().click();
  await admin.waitForURL(/evidence\/evd_/);
  check(/Least privilege/.test(await admin.textContent("h1")), "an earlier result is shown as it was");

  // The inventory is E1, entry by entry; what is set aside is so with a date and a reason.
  await admin.goto(url + "/inventory?state=unobserved");
  check(await admin.locator("#table tbody tr").count() > 0 && /looked for since/.test(await admin.textContent("#table")), "what is registered and was never used is listed, with since when it is looked for");
  await admin.locator("#table tbody a.row-link").first().click();
  await admin.waitForURL(/inventory\/obs_/);
  const entry = new URL(admin.url()).pathname;
  check(/countersign inventory set-aside obs_/.test(await admin.textContent("main")), "an entry says what acts on it");
  await admin.selectOption("#a-until", "30d");
  await admin.fill("#a-reason", "it begins in December");
  await admin.click("button:has-text('Set aside')");
  await admin.locator(".said.good").waitFor();
  check(/it begins in December/.test(await admin.textContent("main")), "it is set aside");
  await admin.goto(url + "/inventory?state=aside");
  check(/it begins in December/.test(await admin.textContent("#table")), "and listed as set aside");
  await admin.goto(url + entry);
  await admin.fill("#b-reason", "it is needed now");
  await admin.click("button:has-text('Take it back')");
  await admin.locator(".said.good").waitFor();
  paths.push("/inventory", "/inventory?state=unobserved", entry);
  await viewer.goto(url + entry);
  check(await viewer.locator("#a-until").count() === 0, "who may not change anything is not asked to set it aside");

  await viewer.goto(url + "/posture");
  check(await viewer.locator("#run-reason").count() === 0 && /does not start runs/.test(await viewer.textContent("main")), "who may not compute is not asked to");
  await admin.goto(url + "/posture/requirement?id=PR.AA-99");
  check(/names no predicate/.test(await admin.textContent("main")), "a requirement that there is not is said so");
  return paths;
}
