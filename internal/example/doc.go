// Package example is the example business: Hanse Trade, a small mail-order house
// whose agents are the cases Countersign exists for. Everything is real software
// behind real protocols; only the model is scripted.
//
//	model     the model provider, OpenAI and Anthropic wire formats
//	helpdesk  an MCP server over HTTP: tickets, orders, mail
//	courier   a third party's MCP server over HTTP: parcels; it can turn
//	forge     git over HTTP, pull requests and deployments
//	ledger    an MCP server over stdio: invoices and payments
//	agents    the agents, ordinary loops on the official clients
//
// This package itself holds the business as files, the way a company would
// write it down for `countersign apply` ([Files]), and the parts as programs
// ([Run]), so that `countersign example PART` runs each in a process of its own.
//
// It imports nothing of the product: what it governs itself with is only its
// environment and these files. Who may import it: the command line, the server,
// and tests.
package example
