// Makes payments that people have to approve with the official MCP client,
// unmodified, in each way of waiting, and prints one JSON object with the texts
// that each got, the last being the answer.
//
//   COUNTERSIGN_TOKEN, and as arguments the MCP URL and, as JSON, {way: arguments}
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, payments] = process.argv.slice(2);
const name = url.endsWith("/mcp") ? "ledger__pay_invoice" : "pay_invoice";
async function connect(capabilities, prepare = () => {}) {
  const c = new Client({ name: "npm-client", version: "1" }, { capabilities });
  prepare(c);
  await c.connect(new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${process.env.COUNTERSIGN_TOKEN}` } },
  }));
  return c;
}
const client = await connect({});

const text = (r) => (r.isError ? "ERROR " : "") + r.content.map((c) => c.text).join("");
const pay = async (args, options) => text(await client.callTool({ name, arguments: args }, undefined, options));
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
  // as a task of 2025-11-25, because the list says that the tool can be one
  async task(args) {
    const said = [];
    await client.listTools();
    for await (const m of client.experimental.tasks.callToolStream({ name, arguments: args })) {
      if (m.type === "taskCreated") said.push(`${m.task.taskId} ${m.task.status}`);
      else if (m.type === "taskStatus") said.push(m.task.status);
      else said.push(m.type === "result" ? text(m.result) : `ERROR ${m.error.message}`);
    }
    return said;
  },
  // the person at the client is shown where to decide
  async link(args) {
    const said = [];
    const shows = await connect({ elicitation: { url: {} } }, (c) => c.setRequestHandler(ElicitRequestSchema, ({ params }) => {
      said.push(`${params.mode} ${params.url}`);
      return { action: "accept" };
    }));
    said.push(text(await shows.callTool({ name, arguments: args }, undefined, { timeout: 55000 })));
    await shows.close();
    return said;
  },
};
ways.made = ways.task; // of a call that nobody holds

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
