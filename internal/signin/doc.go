// Package signin lets people sign in at their organisation's OpenID provider,
// and notices when it no longer knows them.
//
// It promises that a session is given only to whom the configured provider
// vouches for, in a fresh answer to a question of ours (state, nonce and PKCE
// are bound to each other, work once and for ten minutes), and only to the
// program that began the sign-in: it holds the verifier of the challenge that it
// began with. Nobody is sent anywhere but to the provider, to a loopback
// address, or to a path of this server.
//
// Nothing about a sign-in is stored before it is complete: the state is sealed
// and carries what it is about, so a flood of beginnings costs no row.
//
// # For the console
//
// A browser is a program like any other. To sign somebody in, make a verifier
// (43 to 128 characters of RFC 7636), keep it in a short-lived cookie that is
// HttpOnly, Secure and SameSite=Lax, call StartLogin with a path of the console
// as redirect and Challenge(verifier), and redirect to the URL it returns. The
// provider sends the person to /api/v1/login/oidc/callback (Callback, mounted by
// the server), which sends them on to that path with either ticket=… or
// error=…&error_description=… in its query. There, call FinishLogin with the
// ticket and the cookie's verifier, and put the token it returns into the
// session cookie. A ticket without its verifier is worth nothing, so a link
// that somebody sent signs nobody in.
//
// server may import it; it imports identity, findings and what lies beneath.
package signin
