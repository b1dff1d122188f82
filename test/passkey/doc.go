// Package passkey is an authenticator in software: it makes passkeys and signs
// with them as WebAuthn says (level 3), and can be told to do what an attacker
// would. Tests use it where a browser has its own.
package passkey
