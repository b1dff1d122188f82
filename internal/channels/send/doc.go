// Package send puts a message on the wire of a channel, with its secret. It
// knows nothing of approvals. Only channels may import it.
package send
