// Findings, undo and releases in the browser: what people do with them.
import { readFileSync } from "node:fs";
import { api, callTool, check, url } from "./world.mjs";

const good = (page) => page.locator("main > #said .said.good").waitFor();

async function findings(admin, viewer) {
  const canary = await api("POST", "/canaries/wiki", { kind: "key", where: "an old page" });
  await fetch(url + "/mcp/helpdesk", { method: "POST", headers: { authorization: "Bearer " + canary.value, "content-type": "application/json" }, body: "{}" });
  await admin.goto(url + "/findings");
  for (let i = 0; i < 120 && !await admin.locator("#table a[href^='/events']").count(); i++) { await admin.waitForTimeout(250); await admin.reload(); }
  const [found] = (await api("GET", "/findings?state=open&limit=50")).filter((f) => /canary/.test(f.rule));
  const at = "/findings/" + found.id;
  await admin.goto(url + at);
  check((await admin.getAttribute("a:has-text(\"All the log's events about\")", "href")).startsWith("/events?q="), "a finding leads to the log's events about its object");
  await admin.click("summary:has-text('Note for whoever')");
  await admin.fill("#note", "the page is read by a crawler");
  await admin.click("button:has-text('Keep the note')");
  await good(admin);
  await admin.click("summary:has-text('Mute it')");
  await admin.selectOption("#m-until", "7d");
  await admin.fill("#m-reason", "the wiki is being cleaned");
  await admin.click("details[open] button:has-text('Mute')");
  await good(admin);
  check((await api("GET", at)).state === "muted" && /Muted until/.test(await admin.textContent(".said.good")), "a finding is muted until a date");
  await admin.goto(url + "/findings");
  check(!(await admin.textContent("#table")).includes(found.title), "and left out of what is open");
  await admin.goto(url + "/findings?state=muted");
  check((await admin.textContent("#table")).includes("crawler"), "but found among what is muted, with its note");
  await admin.goto(url + "/mutes");
  await admin.click("#table summary:has-text('End it')");
  await admin.locator("#table details[open] input[name=reason]").fill("cleaned");
  await admin.click("#table details[open] button");
  await good(admin);
  await admin.goto(url + at);
  await admin.fill("#f-reason", "the key was taken from the page");
  await admin.click("section button:has-text('Close')");
  await good(admin);
  const closed = await api("GET", at);
  check(closed.state === "closed" && closed.history.some((h) => h.act === "closed"), "a finding is closed with what was done about it");
  await viewer.goto(url + at);
  check(await viewer.locator("form[action$='/close']").count() === 0, "who may not write is not asked to");
  return ["/findings?state=closed", at, "/mutes"];
}

async function undo(admin) {
  await api("PATCH", "/connections/helpdesk/tools/draft_reply", { effect: "write", undo: { tool: "helpdesk/draft_reply", args: { number: "call:/number", body: '="withdrawn"' } } });
  const answer = await callTool("draft_reply", { number: "T-1002", body: "Your order is on its way." });
  let intent;
  for (let i = 0; i < 120 && !intent; i++) {
    [intent] = (await api("GET", "/log/events?limit=1&q=" + encodeURIComponent("type:call.outcome tool:helpdesk/draft_reply"))).events;
    if (!intent) await admin.waitForTimeout(250);
  }
  check(!!intent, "a call with an effect was made", answer);
  await admin.goto(url + "/events/" + intent.id);
  await admin.click("a:has-text('How would this call be undone')");
  await admin.waitForURL(/undo\?call=/);
  const plan = new URL(admin.url()).pathname + new URL(admin.url()).search;
  check(/nothing has happened yet/.test(await admin.textContent("main")) && /"withdrawn"/.test(await admin.textContent("#plan ~ .scroll")), "the plan of an undo is shown", await admin.textContent("main"));
  await admin.fill("#undo-reason", "it went to the wrong customer");
  await admin.click("button:has-text('Undo 1 call')");
  await admin.waitForURL(/undos\/und_/);
  await admin.locator("#undo tbody .badge.good").waitFor();
  await admin.locator("#undo progress").waitFor({ state: "detached" });
  check((await admin.textContent("#steps")) === "Done", "a call is undone, and the page follows it");
  const at = new URL(admin.url()).pathname;
  await admin.goto(url + plan);
  check(/undone already|cannot be undone/.test(await admin.textContent("main")) && await admin.locator("#undo-reason").count() === 0, "and is not undone twice", await admin.textContent("main"));
  if (intent.run) {
    await admin.goto(url + "/runs/" + intent.run);
    check(await admin.locator("a[href^='/undo?run=']").count() === 1, "a run offers its undo");
  }
  await admin.goto(url + "/undos");
  check(/wrong customer/.test(await admin.textContent("#table")), "what was undone is listed");
  return ["/undos", at, plan];
}

async function incidents(admin) {
  await admin.goto(url + "/agents/worker");
  await admin.click("a:has-text('Open an incident')");
  check(await admin.inputValue("#i-agent") === "worker", "an incident begins at an agent");
  await admin.fill("#i-title", "replies to the wrong people");
  await admin.fill("#i-reason", "a customer called");
  await admin.click("button:has-text('Open the incident')");
  await admin.waitForURL(/incidents\/inc_/);
  const at = new URL(admin.url()).pathname;
  check(/draft_reply/.test(await admin.textContent("#effects ~ *")) && /incident\.opened|call\./.test(await admin.textContent("#timeline ~ .scroll")), "what belongs to it is gathered from the log");
  await admin.fill("#note", "the customer was called at 9:40");
  await admin.click("button:has-text('Note it')");
  await good(admin);
  check(/9:40/.test(await admin.textContent("#notes ~ ul")), "a note is kept");
  await admin.fill("#x-reason", "for the insurer");
  const [file] = await Promise.all([admin.waitForEvent("download"), admin.click("button:has-text('Export it')")]);
  check(file.suggestedFilename() === "incident.tar" && readFileSync(await file.path()).includes("incident.json"), "it is exported as one file");
  await admin.fill("#close-reason", "they were told");
  await admin.click("button:has-text('Close the incident')");
  await good(admin);
  await admin.goto(url + "/incidents?state=closed");
  check(/wrong people/.test(await admin.textContent("#table")), "a closed incident is listed");
  return ["/incidents", "/incidents?state=closed", "/incidents/new?agent=worker", at];
}

async function releases(admin) {
  await admin.goto(url + "/agents/worker/releases");
  await admin.fill("#create-reason", "as it is");
  await admin.click("button:has-text('Make it')");
  await good(admin);
  await admin.fill("#promote-reason", "to begin with");
  await admin.selectOption("#stage", "development");
  await admin.click("button:has-text('Promote')");
  await good(admin);
  check((await api("GET", "/agents/worker/release")).active === 1, "a release is made and put in force");
  await api("PUT", "/grants/worker-orders", { agent: "worker", connection: "helpdesk", tools: ["get_order"], reason: "came later" });
  await admin.reload();
  check(/worker-orders/.test(await admin.textContent("#drift ~ .scroll")), "what differs from the release is shown");
  await admin.click("summary:has-text('Make a release')");
  await admin.fill("#create-reason", "with orders");
  await admin.click("details[open] button:has-text('Make it')");
  await good(admin);
  await admin.selectOption("#number", "2");
  await admin.fill("#promote-reason", "orders too");
  await admin.click("button:has-text('Promote')");
  await good(admin);
  await admin.fill("#back-reason", "it reads too much");
  await admin.click("button:has-text('Roll back')");
  await good(admin);
  const state = await api("GET", "/agents/worker/release");
  check(state.active === 1 && !(await api("GET", "/grants")).some((g) => g.name === "worker-orders"), "a release is rolled back with its grants", JSON.stringify(state));
  // The gate, on the page of a release: what is missing, and a canary that is asked for there.
  await admin.goto(url + "/agents/worker/releases/2?stage=production");
  check(/The gate to production/.test(await admin.textContent("#gate")) && await admin.locator("table[data-small=gate] tbody .badge.bad").count() > 0, "the gate says what is missing");
  await admin.fill("#promote-reason", "straight to production");
  await admin.click("button:has-text('Promote to production')");
  check(/not ready for production/.test(await admin.textContent("main")), "and refuses what is not ready");
  await admin.goto(url + "/agents/worker/releases/2?stage=development");
  await admin.fill("#percent", "25");
  await admin.fill("#promote-reason", "a quarter first");
  await admin.click("button:has-text('Promote to development')");
  await good(admin);
  await admin.goto(url + "/agents/worker/releases/2");
  check(/25 % of the runs/.test((await admin.textContent("main")).replace(/\s+/g, " ")), "a canary is asked for, and its state is shown", await admin.textContent("main"));
  await admin.goto(url + "/releases");
  check(/with orders/.test(await admin.textContent("#table")), "releases are listed");
  return ["/releases", "/agents/worker/releases", "/agents/worker/releases/1", "/agents/worker/releases/2?stage=production"];
}

// A campaign: one grant is kept and one revoked, by clicking, and the revoked one is tried.
async function reviews(admin, reviewer) {
  for (const name of ["review-keep", "review-revoke"]) await api("PUT", "/grants/" + name, { agent: "worker", connection: "helpdesk", tools: ["get_order"], reason: "to be reviewed" });
  const review = await api("POST", "/reviews", { name: "rights-of-worker", scope: { names: ["review-keep", "review-revoke"], all: true }, rules: { levels: [["user:fiona"]] } });
  await reviewer.goto(url + "/reviews");
  await reviewer.click(`a[href='/reviews/${review.id}']`);
  await reviewer.waitForURL(/\/reviews\/rvw_/);
  const item = (name) => reviewer.locator("section.card", { has: reviewer.locator(`h2:has-text('${name}')`) });
  await item("review-keep").locator("input[name=reason]").fill("orders are read every day");
  await item("review-keep").locator("button[value=keep]").click();
  await good(reviewer);
  await item("review-revoke").locator("input[name=reason]").fill("the other one is enough");
  await item("review-revoke").locator("button[value=revoke]").click();
  await good(reviewer);
  check(/0 of 2 items open/.test((await reviewer.textContent("main")).replace(/\s+/g, " ")) && await reviewer.locator("button[value=keep]").count() === 0, "every item of a review is decided by clicking", await reviewer.textContent("main"));
  for (let i = 0; i < 120 && !/tried afterwards/.test(await reviewer.textContent("main")); i++) { await reviewer.waitForTimeout(250); await reviewer.reload(); }
  check(/tried afterwards/.test(await reviewer.textContent("main")) && !(await api("GET", "/grants")).some((g) => g.name === "review-revoke"), "what was revoked is gone, and what came of trying it is shown");
  await admin.goto(url + "/reviews/" + review.id);
  check(/orders are read every day/.test(await admin.textContent("main")), "with who decided and why");
  return ["/reviews", "/reviews/" + review.id];
}

async function detection(admin, viewer) {
  await admin.goto(url + "/detection");
  check(await admin.locator("#table tbody tr").count() > 15 && await admin.locator("#table .badge:has-text('observe')").count() > 15, "every rule is listed, and begins by observing");
  await admin.click("#table a:has-text('denied.burst')");
  await admin.waitForURL(/rules\/denied.burst/);
  await admin.selectOption("#new-mode", "enforce");
  await admin.fill("#mode-reason", "nothing false in two weeks");
  await admin.click("button:has-text('Change')");
  await good(admin);
  check((await api("GET", "/detection/rules/denied.burst")).mode === "enforce", "a rule is set to enforce");
  await admin.fill("#agent", "worker");
  await admin.click("button:has-text('Show')");
  await admin.waitForURL(/agent=worker/);
  check(/worker/.test(await admin.textContent("#normal ~ *:last-child")), "what is normal of an agent is shown, or that it is not learned");
  await viewer.goto(url + "/detection/rules/denied.burst");
  check(await viewer.locator("#new-mode").count() === 0, "who may not change a rule is not asked to");
  await admin.goto(url + "/detections?state=all");
  check((await admin.title()).startsWith("Detections"), "what rules found is listed");
  return ["/detection", "/detection/rules/denied.burst?agent=worker", "/detections", "/detections?state=all"];
}

export async function work(admin, viewer) {
  return [...await findings(admin, viewer), ...await undo(admin), ...await incidents(admin), ...await releases(admin), ...await detection(admin, viewer), ...await reviews(admin, viewer)];
}
