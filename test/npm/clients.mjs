// Runs the official npm clients, unmodified, with the environment that a
// governed program has, and prints one JSON document with what they saw.
//
//   OPENAI_BASE_URL OPENAI_API_KEY ANTHROPIC_BASE_URL ANTHROPIC_API_KEY
//   COUNTERSIGN_TOKEN, and as arguments MCP URLs to open
//
// Each part stands alone: a failure is reported, not thrown.
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const attempt = async (fn) => {
  try {
    return { ok: await fn() };
  } catch (e) {
    return { error: { name: e.constructor.name, status: e.status, code: e.code, message: String(e.message) } };
  }
};

const ask = "In one word, is the sky blue?";

async function openai() {
  const client = new OpenAI({ maxRetries: 0 });
  const messages = [{ role: "user", content: ask }];
  return {
    models: await attempt(async () => (await client.models.list()).data.map((m) => m.id)),
    chat: await attempt(async () =>
      (await client.chat.completions.create({ model: "test-echo", max_tokens: 100, messages })).choices[0].message.content),
    stream: await attempt(async () => {
      const stream = await client.chat.completions.create(
        { model: "test-echo", max_tokens: 100, messages, stream: true, stream_options: { include_usage: true } });
      let text = "", chunks = 0, usage = null;
      for await (const c of stream) {
        text += c.choices[0]?.delta?.content ?? "";
        usage = c.usage ?? usage;
        chunks++;
      }
      return { text, chunks, usage: usage !== null };
    }),
    responses: await attempt(async () =>
      (await client.responses.create({ model: "test-echo", max_output_tokens: 100, input: ask })).output_text),
    embeddings: await attempt(async () =>
      (await client.embeddings.create({ model: "text-embedding-3-small", input: ask })).data.length),
    forbidden: await attempt(async () =>
      (await client.chat.completions.create({ model: "forbidden-model", max_tokens: 100, messages })).id),
  };
}

async function anthropic() {
  const client = new Anthropic({ maxRetries: 0 });
  const messages = [{ role: "user", content: ask }];
  return {
    models: await attempt(async () => (await client.models.list()).data.map((m) => m.id)),
    message: await attempt(async () =>
      (await client.messages.create({ model: "test-echo", max_tokens: 100, messages })).content[0].text),
    stream: await attempt(async () => {
      const final = await client.messages.stream({ model: "test-echo", max_tokens: 100, messages }).finalMessage();
      return { text: final.content[0].text, usage: final.usage.output_tokens > 0 };
    }),
    count: await attempt(async () =>
      (await client.messages.countTokens({ model: "test-echo", messages })).input_tokens > 0),
    forbidden: await attempt(async () =>
      (await client.messages.create({ model: "forbidden-model", max_tokens: 100, messages })).id),
  };
}

async function mcp(url) {
  const client = new Client({ name: "npm-client", version: "1" });
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { Authorization: `Bearer ${process.env.COUNTERSIGN_TOKEN}` } },
  });
  return attempt(async () => {
    await client.connect(transport);
    const { tools } = await client.listTools();
    const names = tools.map((t) => t.name);
    const called = {};
    for (const [tool, args] of JSON.parse(process.env.MCP_CALLS ?? "[]")) {
      called[tool] = await attempt(async () => {
        const r = await client.callTool({ name: tool, arguments: args });
        return { isError: r.isError ?? false, text: r.content?.map((c) => c.text ?? "").join("\n") };
      });
    }
    await client.close();
    return { tools: names, called };
  });
}

const out = { openai: await openai(), anthropic: await anthropic(), mcp: {} };
for (const url of process.argv.slice(2)) out.mcp[url] = await mcp(url);
console.log(JSON.stringify(out, null, 2));
