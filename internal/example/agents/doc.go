// Package agents holds the agents of the example business. They are
// ordinary programs: a loop around an official model client (openai-go,
// anthropic-sdk-go) with the official MCP client for the tools. They know
// nothing of Countersign. What makes them governed is their environment alone:
// base URLs that point at the gateway, and one short-lived credential.
//
//	OPENAI_BASE_URL, OPENAI_API_KEY         the model of Support and Knowledge
//	ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY   the model of Invoices
//	COUNTERSIGN_MCP_URL, COUNTERSIGN_TOKEN  the tools: one MCP server per path beneath
//	COUNTERSIGN_HTTP_URL                    git and the forge of Release
//	MODEL                                   which model to ask (optional)
//
// A refusal, of a tool or of the model, is an answer like another: it is printed
// as it came, handed to the model, and the agent goes on.
//
// Who may import it: internal/example, the command line, and tests.
package agents
