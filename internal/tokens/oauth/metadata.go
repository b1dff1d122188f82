package oauth

import (
	"encoding/json/v2"
	"net/http"
	"regexp"
	"strings"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/tokens"
)

// resourceMetadata is where the metadata of resources are (RFC 9728 section 3).
const resourceMetadata = "/.well-known/oauth-protected-resource"

// public sends what everybody may know and keep for a while. Web pages of any
// origin may read it: clients that run in a browser discover us by it.
func public(w http.ResponseWriter, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("X-Content-Type-Options", "nosniff")
	_ = json.MarshalWrite(w, v, json.Deterministic(true)) // a client that went away needs no answer
}

// metadata describes the issuer (RFC 8414, OpenID Connect Discovery).
func (f *Front) metadata(w http.ResponseWriter, _ *http.Request) {
	base := f.o.Tokens.Issuer()
	m := map[string]any{
		"issuer":                                           base,
		"authorization_endpoint":                           base + "/oauth2/authorize",
		"token_endpoint":                                   base + "/oauth2/token",
		"jwks_uri":                                         base + "/oauth2/jwks",
		"revocation_endpoint":                              base + "/oauth2/revoke",
		"device_authorization_endpoint":                    base + "/oauth2/device_authorization",
		"response_types_supported":                         []string{"code"},
		"response_modes_supported":                         []string{"query"},
		"grant_types_supported":                            grants,
		"code_challenge_methods_supported":                 []string{"S256"},
		"token_endpoint_auth_methods_supported":            []string{"none", "private_key_jwt"},
		"token_endpoint_auth_signing_alg_values_supported": []string{"ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"},
		"revocation_endpoint_auth_methods_supported":       []string{"none"},
		"scopes_supported":                                 identity.EffectScopes(),
		"subject_types_supported":                          []string{"public"},
		"id_token_signing_alg_values_supported":            []string{"ES256"},
		"claims_supported":                                 []string{"iss", "sub", "aud", "exp", "iat", "jti", "act", "scope", "client_id"},
		"authorization_response_iss_parameter_supported":   true,
		"client_id_metadata_document_supported":            true,
		"protected_resources":                              []string{base + "/mcp"},
	}
	if f.o.Tokens.Registration() {
		m["registration_endpoint"] = base + "/oauth2/register"
	}
	public(w, m)
}

var resourcePath = regexp.MustCompile(`^(mcp|(mcp|llm|http|retrieve)/[a-z0-9][a-z0-9-]{0,62})$`)

// resource describes a resource. Whether a connection of that name exists is
// not told to people nobody knows.
func (f *Front) resource(w http.ResponseWriter, r *http.Request) {
	path := r.PathValue("path")
	if !resourcePath.MatchString(path) {
		answer(w, http.StatusNotFound, map[string]string{"error": "not_found"})
		return
	}
	base := f.o.Tokens.Issuer()
	public(w, map[string]any{
		"resource":                 base + "/" + path,
		"authorization_servers":    []string{base},
		"scopes_supported":         identity.EffectScopes(),
		"bearer_methods_supported": []string{"header"},
		"resource_name":            "Countersign: " + path,
	})
}

// Challenge returns the WWW-Authenticate header with which a refused request to
// a door (/mcp/ledger) is answered (RFC 6750 section 3, RFC 9728 section 5.1):
// where to learn how to get a token, and for which scope. needed is the scope
// of a step-up, empty when the credential itself was missing or, if presented,
// refused.
func Challenge(s *tokens.Service, door, needed string, presented bool) string {
	if !resourcePath.MatchString(strings.TrimPrefix(door, "/")) {
		door = "/mcp" // what a client wrote must not get into a header
	}
	at := `, resource_metadata="` + s.Issuer() + resourceMetadata + door + `"`
	switch {
	case needed != "":
		return `Bearer realm="countersign", error="insufficient_scope", scope="` + needed + `"` + at
	case presented:
		return `Bearer realm="countersign", error="invalid_token", scope="` + tokens.FirstScope + `"` + at
	}
	return `Bearer realm="countersign", scope="` + tokens.FirstScope + `"` + at
}
