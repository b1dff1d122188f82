// Signs the official MCP client in at a server of which it knows the URL alone
// (the arguments are that URL, the client's metadata document and its redirect
// URI), calls a tool, and then one for which its consent is too narrow.
//
// A person's browser is whoever reads standard output: "open URL" asks for it,
// and standard input answers with the code and the issuer. The last line is a
// JSON document with what the client saw.
import { createInterface } from "node:readline";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { UnauthorizedError } from "@modelcontextprotocol/sdk/client/auth.js";

const [server, document, redirect] = process.argv.slice(2);
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const kept = {};

const provider = {
  redirectUrl: redirect,
  clientMetadataUrl: document,
  clientMetadata: { client_name: "Test", redirect_uris: [redirect], grant_types: ["authorization_code", "refresh_token"], response_types: ["code"], token_endpoint_auth_method: "none" },
  clientInformation: () => kept.client,
  saveClientInformation: (c) => { kept.client = c; },
  tokens: () => kept.tokens,
  saveTokens: (t) => { kept.tokens = t; },
  // This SDK answers a step-up with a refresh, which cannot give a wider scope;
  // when that is refused it forgets the tokens and begins a new authorization.
  invalidateCredentials: (what) => {
    if (what === "all" || what === "tokens") delete kept.tokens;
    if (what === "all" || what === "client") delete kept.client;
  },
  codeVerifier: () => kept.verifier,
  saveCodeVerifier: (v) => { kept.verifier = v; },
  redirectToAuthorization: (url) => { console.log("open " + url); },
};

// signed runs fn, and again after the person has consented when that is needed.
async function signed(fn) {
  for (let asked = 0; ; asked++) {
    const transport = new StreamableHTTPClientTransport(new URL(server), { authProvider: provider });
    const client = new Client({ name: "test", version: "1" });
    try {
      await client.connect(transport);
      return await fn(client);
    } catch (e) {
      if (!(e instanceof UnauthorizedError) || asked > 1) throw e;
      const [code, iss] = (await input.next()).value.split(" ");
      await transport.finishAuth(code, iss);
    } finally {
      await client.close().catch(() => {});
    }
  }
}

const call = (name, args) => signed(async (c) => ((await c.callTool({ name, arguments: args })).isError ? "refused" : "ok"));
const out = { said: {} };
try {
  out.tools = await signed(async (c) => (await c.listTools()).tools.map((t) => t.name));
  out.said.list_tickets = await call("list_tickets", {});
  out.said.send_email = await call("send_email", { to: "ana@example.com", subject: "s", body: "b" });
} catch (e) {
  out.error = `${e.constructor.name}: ${e.message}`;
}
console.log(JSON.stringify(out));
process.exit(0);
