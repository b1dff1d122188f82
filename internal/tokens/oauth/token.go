package oauth

import (
	"encoding/json/v2"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/tokens"
)

// The grant types.
const (
	grantClient   = "client_credentials"
	grantCode     = "authorization_code"
	grantRefresh  = "refresh_token"
	grantBearer   = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	grantDevice   = "urn:ietf:params:oauth:grant-type:device_code"
)

var grants = []string{grantCode, grantRefresh, grantClient, grantBearer, grantExchange, grantDevice}

// issued is the answer of the token endpoint (RFC 6749 section 5.1, RFC 8693
// section 2.2.1), with what a program needs that was started by it.
type issued struct {
	AccessToken string        `json:"access_token"`
	IssuedType  string        `json:"issued_token_type,omitzero"`
	Type        string        `json:"token_type"`
	ExpiresIn   int64         `json:"expires_in"`
	Scope       string        `json:"scope,omitzero"`
	Refresh     string        `json:"refresh_token,omitzero"`
	Agent       string        `json:"countersign_agent,omitzero"`
	Run         string        `json:"countersign_run,omitzero"`
	Doors       []tokens.Door `json:"countersign_connections,omitzero"`
}

func (f *Front) token(w http.ResponseWriter, r *http.Request) {
	q, err := form(w, r, "resource", "audience")
	if err != nil {
		f.refuse(w, r, tokens.Refusal{Door: "token"}, err)
		return
	}
	out, err := f.grant(r, q)
	if err != nil {
		f.trap(r, q.Get("subject_token"), q.Get("actor_token"))
		f.refuse(w, r, tokens.Refusal{Door: "token", Grant: q.Get("grant_type"), Agent: q.Get("client_id")}, err)
		return
	}
	t := issued{AccessToken: out.Token, Type: "Bearer", ExpiresIn: int64(time.Until(out.Expires).Round(time.Second) / time.Second), Scope: out.Scope, Refresh: out.Refresh,
		Agent: out.Agent, Run: out.Run, Doors: out.Doors}
	if q.Get("grant_type") == grantExchange || out.Type == tokens.WantRun {
		t.IssuedType = out.Type
	}
	answer(w, http.StatusOK, t)
}

func (f *Front) grant(r *http.Request, q url.Values) (tokens.Issued, error) {
	ctx, s := r.Context(), f.o.Tokens
	ask := tokens.Ask{Resources: q["resource"], Scope: q.Get("scope"), Want: q.Get("requested_token_type"), Remote: host(r.RemoteAddr), Client: r.UserAgent()}
	if text := q.Get("countersign_life"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n <= 0 || n > int(tokens.RunMost/time.Second) {
			return tokens.Issued{}, tokens.ErrRequest.Say("countersign_life is a number of seconds")
		}
		ask.Life = time.Duration(n) * time.Second
	}
	if r.Header.Get("Authorization") != "" || q.Get("client_secret") != "" {
		return tokens.Issued{}, tokens.ErrClient.Say("this server knows no client secrets; prove yourself with private_key_jwt, or not at all if you are a public client")
	}
	switch grant := q.Get("grant_type"); grant {
	case grantClient:
		p, err := proof(q)
		if err != nil {
			return tokens.Issued{}, err
		}
		return s.ClientCredentials(ctx, *p, ask)
	case grantCode:
		return s.Redeem(ctx, q.Get("client_id"), q.Get("code"), q.Get("code_verifier"), q.Get("redirect_uri"), ask)
	case grantRefresh:
		return s.Refresh(ctx, q.Get("client_id"), q.Get("refresh_token"), ask)
	case grantBearer:
		return s.Federate(ctx, q.Get("assertion"), q.Get("client_id"), ask)
	case grantExchange:
		return f.exchange(r, q, ask)
	case grantDevice:
		p, err := proof(q)
		if err != nil {
			return tokens.Issued{}, err
		}
		return s.Poll(ctx, q.Get("device_code"), *p, ask)
	default:
		return tokens.Issued{}, tokens.ErrGrantType.Say("grant_type %.60q is not supported", grant)
	}
}

// ownTokens are the token types as which a credential of ours may be shown.
var ownTokens = []string{tokens.WantAccess, tokens.TypeJWT, tokens.WantRun}

func (f *Front) exchange(r *http.Request, q url.Values, ask tokens.Ask) (tokens.Issued, error) {
	sub := tokens.Subject{Token: q.Get("subject_token"), Type: q.Get("subject_token_type"), Actor: q.Get("actor_token"), Agent: q.Get("client_id")}
	if sub.Token == "" || sub.Type != tokens.TypeID && !slices.Contains(ownTokens, sub.Type) {
		return tokens.Issued{}, tokens.ErrRequest.Say("subject_token and subject_token_type (%s, or %s of an issuer that is trusted) are needed", tokens.WantAccess, tokens.TypeID)
	}
	if sub.Actor != "" && !slices.Contains(ownTokens, q.Get("actor_token_type")) {
		return tokens.Issued{}, tokens.ErrRequest.Say("actor_token_type must be %s", tokens.WantAccess)
	}
	if len(q["audience"]) > 0 {
		return tokens.Issued{}, tokens.ErrRequest.Say("name the target by resource, not by audience")
	}
	if q.Get("client_assertion") != "" {
		p, err := proof(q)
		if err != nil {
			return tokens.Issued{}, err
		}
		sub.Proof = p
	}
	return f.o.Tokens.Exchange(r.Context(), sub, ask)
}

// proof reads a client's assertion.
func proof(q url.Values) (*tokens.ClientProof, error) {
	if q.Get("client_assertion") == "" || q.Get("client_assertion_type") != tokens.AssertionType {
		return nil, tokens.ErrClient.Say("client_assertion with client_assertion_type %s is needed", tokens.AssertionType)
	}
	return &tokens.ClientProof{ClientID: q.Get("client_id"), Assertion: q.Get("client_assertion")}, nil
}

// enrol opens an enrolment: RFC 8628, with the machine's public key and its
// proof of holding the private one.
func (f *Front) enrol(w http.ResponseWriter, r *http.Request) {
	q, err := form(w, r)
	var codes tokens.Codes
	if err == nil {
		var p *tokens.ClientProof
		if p, err = proof(q); err == nil {
			codes, err = f.o.Tokens.Enrol(r.Context(), q.Get("client_id"), []byte(q.Get("jwk")), *p, q.Get("host"), host(r.RemoteAddr))
		}
	}
	if err != nil {
		f.refuse(w, r, tokens.Refusal{Door: "device_authorization", Agent: q.Get("client_id")}, err)
		return
	}
	answer(w, http.StatusOK, struct {
		Device   string `json:"device_code"`
		User     string `json:"user_code"`
		URI      string `json:"verification_uri"`
		Expires  int64  `json:"expires_in"`
		Interval int    `json:"interval"`
	}{codes.Device, codes.User, f.o.Tokens.Issuer(), int64(tokens.EnrolLife / time.Second), int(tokens.PollInterval / time.Second)})
}

func (f *Front) revoke(w http.ResponseWriter, r *http.Request) {
	q, err := form(w, r)
	if err == nil && q.Get("token") == "" {
		err = tokens.ErrRequest.Say("token is missing")
	}
	if err == nil {
		f.trap(r, q.Get("token")) // a credential that is not known is no error here
		err = f.o.Tokens.Revoke(r.Context(), q.Get("token"), host(r.RemoteAddr))
	}
	if err != nil {
		f.refuse(w, r, tokens.Refusal{Door: "revoke"}, err)
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

func (f *Front) register(w http.ResponseWriter, r *http.Request) {
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil || !strings.EqualFold(strings.TrimSpace(media), "application/json") {
		err = tokens.ErrMetadata.Say("send client metadata as application/json, at most %d bytes", maxForm).With(err)
		f.refuse(w, r, tokens.Refusal{Door: "register"}, err)
		return
	}
	c, err := f.o.Tokens.Register(r.Context(), b, host(r.RemoteAddr))
	if err != nil {
		if fault.KindOf(err) == fault.Denied {
			f.o.Tokens.Refused(r.Context(), tokens.Refusal{Door: "register", Remote: host(r.RemoteAddr), Client: r.UserAgent()}, err)
			answer(w, http.StatusForbidden, map[string]string{"error": "access_denied", "error_description": ascii(fault.Public(err).Message)})
			return
		}
		f.refuse(w, r, tokens.Refusal{Door: "register"}, err)
		return
	}
	answer(w, http.StatusCreated, struct {
		ClientID  string   `json:"client_id"`
		IssuedAt  int64    `json:"client_id_issued_at"`
		Name      string   `json:"client_name"`
		Redirects []string `json:"redirect_uris"`
		Auth      string   `json:"token_endpoint_auth_method"`
		Grants    []string `json:"grant_types"`
		Responses []string `json:"response_types"`
	}{c.ClientID, c.Created.Unix(), c.Name, c.Redirects, "none", []string{grantCode, grantRefresh}, []string{"code"}})
}

func (f *Front) jwks(w http.ResponseWriter, _ *http.Request) {
	set := f.o.Tokens.JWKS()
	var out struct {
		Keys []any `json:"keys"`
	}
	out.Keys = []any{}
	for _, k := range set.Keys {
		raw, err := k.MarshalJSON()
		var v map[string]any
		if err == nil && json.Unmarshal(raw, &v) == nil {
			out.Keys = append(out.Keys, v)
		}
	}
	public(w, out)
}
