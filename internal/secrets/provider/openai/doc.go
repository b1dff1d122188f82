// Package openai rotates OpenAI project keys through the Admin API: each version
// is a service account of its own, with one key; the one before is deleted.
//
// The server may import openai.
package openai
