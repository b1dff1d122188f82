// Makes payments that people have to approve with the official MCP client,
// unmodified, in each way of waiting, and prints one JSON object with the texts
// that each got, the last being the answer.
//
//   COUNTERSIGN_TOKEN, and as arguments the MCP URL and, as JSON, {way: arguments}
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, payments] = process.argv.slice(2);
const client = new Client({ name: "npm-client", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(url), {
  requestInit: { headers: { Authorization: `Bearer ${process.env.COUNTERSIGN_TOKEN}` } },
}));

const text = (r) => (r.isError ? "ERROR " : "") + r.content.map((c) => c.text).join("");
const pay = async (args, options) => text(await client.callTool({ name: "pay_invoice", arguments: args }, undefined, options));
const check = async (id, wait) => client.callTool({ name: "check_approval", arguments: { id, wait } });
const pause = () => new Promise((done) => setTimeout(done, 50));

// until repeats the identical call while it is pending, as it is told to.
async function until(said, again) {
  while (said.at(-1).includes("Pending: ")) {
    await pause();
    said.push(await again());
  }
  return said;
}

const ways = {
  async kept(args) {
    let progress = 0;
    const answer = await pay(args, { onprogress: () => progress++, resetTimeoutOnProgress: true, timeout: 55000 });
    return [answer];
  },
  async retry(args) {
    return until([await pay(args)], () => pay(args));
  },
  async check(args) {
    const said = [await pay(args)];
    const id = said[0].match(/apr_\w+/)[0];
    let state;
    do state = (await check(id, 30)).structuredContent.state; while (state === "pending");
    said.push(state);
    said.push(await pay(args));
    return said;
  },
  async served(args) {
    const said = [await pay(args)];
    const id = said[0].match(/apr_\w+/)[0];
    let r;
    do r = await check(id, 30); while (["pending", "approved", "executing"].includes(r.structuredContent?.state));
    said.push(text(r));
    return said;
  },
};

const out = {};
for (const [way, args] of Object.entries(JSON.parse(payments))) {
  try {
    out[way] = await ways[way](args);
  } catch (e) {
    out[way] = [`ERROR ${e.message}`];
  }
}
console.log(JSON.stringify(out));
await client.close();
