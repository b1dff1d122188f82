// Command conformance runs the official MCP conformance suite twice, against the
// Go SDK's everything server directly and through Countersign's
// /mcp/everything, for both requirement sets, and writes both columns as
// Markdown. It exits with 1 if a scenario that passes directly does not pass
// through.
//
// It needs npx; the suite runs on Node 22, which npx fetches too.
package main
