// Package webhook rotates secrets through any HTTP API: one templated request
// for each step. Templates know only a few names and put them in escaped for
// where they stand.
//
// The server may import webhook.
package webhook
