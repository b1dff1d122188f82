// Package oauth is the door of the room tokens: OAuth 2.1 and its kin over
// HTTP. It translates: a form to a verb of tokens, an error to the JSON or the
// redirect that the standards have for it. It decides nothing.
//
//	/oauth2/token                   RFC 6749, 7523, 8693, 8628
//	/oauth2/device_authorization    RFC 8628, with the machine's own key
//	/oauth2/revoke                  RFC 7009
//	/oauth2/register                RFC 7591, when it is on
//	/oauth2/authorize               authorization code with PKCE: sign-in, here or at the identity provider, and consent pages
//	/oauth2/jwks                    RFC 7517
//	/.well-known/oauth-authorization-server, /.well-known/openid-configuration    RFC 8414
//	/.well-known/oauth-protected-resource/...                                     RFC 9728
//
// The pages are plain HTML without scripts, refuse to be framed, and take
// nothing from another origin. Only server may import oauth.
package oauth
