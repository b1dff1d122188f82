// Package providers has servers that behave as those of the providers do whose
// credentials are rotated, exchanged or kept: Vault's KV version 2, OpenAI's
// Admin API, token endpoints, GitHub's Apps and AWS STS. Each can lose its
// answer after it took effect, or refuse.
package providers
