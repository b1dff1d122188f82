// Calls GitHub's API by its own SDK, at the base URL and with the key it is
// given, and prints what each call came to.
import { Octokit } from '@octokit/rest'

const octokit = new Octokit({ auth: process.env.COUNTERSIGN_TOKEN, baseUrl: process.argv[2], log: { debug() {}, info() {}, warn() {}, error() {} } })
const out = {}
async function attempt(name, call) {
  try {
    out[name] = { ok: (await call()).data }
  } catch (e) {
    let data = e.response?.data
    if (data instanceof ArrayBuffer) data = JSON.parse(new TextDecoder().decode(data)) // it parses application/json alone
    out[name] = { error: { name: e.name, status: e.status ?? 0, code: data?.code, message: e.message } }
  }
}
const site = { owner: 'acme', repo: 'site' }
await attempt('repository', () => octokit.rest.repos.get(site))
await attempt('issues', () => octokit.rest.issues.listForRepo({ ...site, state: 'open', per_page: 30 }))
await attempt('contents', () => octokit.rest.repos.getContent({ ...site, path: 'README.md', ref: 'main' }))
await attempt('deep', () => octokit.rest.repos.getContent({ ...site, path: 'docs/a.md' })) // sent as docs%2Fa.md
await attempt('create', () => octokit.rest.issues.create({ ...site, title: 'Roof', labels: ['bug'] }))
await attempt('elsewhere', () => octokit.rest.issues.create({ ...site, repo: 'other', title: 'Roof' }))
await attempt('merge', () => octokit.rest.pulls.merge({ ...site, pull_number: 3 }))
await attempt('hooks', () => octokit.rest.repos.listWebhooks(site))
console.log(JSON.stringify(out))
