package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Trust is a rule that trusts an issuer to say who an agent is.
type Trust struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
	TrustSpec
}

// TrustSpec is what a person says of a trust rule.
type TrustSpec struct {
	Agent        string            `json:"agent"`
	Issuer       string            `json:"issuer"`
	Audience     string            `json:"audience,omitempty"`
	Subject      string            `json:"subject"`
	Wildcard     string            `json:"wildcard,omitempty"`
	User         string            `json:"user,omitempty"` // the subject is this user, on whose behalf the agent may act
	Claims       map[string]string `json:"claims,omitempty"`
	JWKS         string            `json:"jwks,omitempty"`
	JWKSURL      string            `json:"jwks_url,omitempty"`
	CA           string            `json:"ca,omitempty"`
	AllowPrivate bool              `json:"allow_private,omitempty"`
	RunLife      string            `json:"run_life,omitempty"`
}

// TrustRules lists trust rules by name.
func (c *Client) TrustRules(ctx context.Context) ([]Trust, error) {
	return get[[]Trust](ctx, c, v1+"/trust", nil)
}

// TrustRule returns one trust rule.
func (c *Client) TrustRule(ctx context.Context, name string) (Trust, error) {
	return get[Trust](ctx, c, v1+"/trust"+segment(name), nil)
}

// PutTrust creates or changes a trust rule.
func (c *Client) PutTrust(ctx context.Context, name string, spec TrustSpec) (Trust, error) {
	return send[Trust](ctx, c, http.MethodPut, v1+"/trust"+segment(name), spec)
}

// DeleteTrust removes a trust rule and ends what was had by it.
func (c *Client) DeleteTrust(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, v1+"/trust"+segment(name), nil, nil, nil)
}

// ClientKey is a public key by which an agent proves itself.
type ClientKey struct {
	ID         string    `json:"id"`
	Agent      string    `json:"agent"`
	Thumbprint string    `json:"thumbprint"`
	JWKSURL    string    `json:"jwks_url,omitempty"`
	Label      string    `json:"label,omitempty"`
	Status     string    `json:"status"` // active, expired, revoked
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	Revoked    time.Time `json:"revoked,omitzero"`
	LastUsed   time.Time `json:"last_used,omitzero"`
}

// ClientKeySpec registers a key: a JWK or the URL of a JWKS.
type ClientKeySpec struct {
	JWK       jsontext.Value `json:"jwk,omitempty"`
	JWKSURL   string         `json:"jwks_url,omitempty"`
	Label     string         `json:"label,omitempty"`
	ExpiresIn string         `json:"expires_in,omitempty"`
}

// ClientKeys lists the public keys of an agent, dead ones included.
func (c *Client) ClientKeys(ctx context.Context, agent string) ([]ClientKey, error) {
	return get[[]ClientKey](ctx, c, agentPath(agent)+"/client-keys", nil)
}

// AddClientKey registers a public key of an agent.
func (c *Client) AddClientKey(ctx context.Context, agent string, spec ClientKeySpec) (ClientKey, error) {
	return send[ClientKey](ctx, c, http.MethodPost, agentPath(agent)+"/client-keys", spec)
}

// RevokeClientKey revokes a public key and ends what was had with it.
func (c *Client) RevokeClientKey(ctx context.Context, agent, id string) error {
	return c.do(ctx, http.MethodDelete, agentPath(agent)+"/client-keys"+segment(id), nil, nil, nil)
}

// Enrolment is a machine that asks, or asked, to be let in as an agent.
type Enrolment struct {
	ID         string    `json:"id"`
	Agent      string    `json:"agent"`
	Host       string    `json:"host"`
	Remote     string    `json:"remote"`
	Thumbprint string    `json:"thumbprint"`
	State      string    `json:"state"`
	DecidedBy  string    `json:"decided_by,omitempty"`
	ClientKey  string    `json:"client_key,omitempty"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
}

// Enrolments lists the enrolments of the last day.
func (c *Client) Enrolments(ctx context.Context) ([]Enrolment, error) {
	return get[[]Enrolment](ctx, c, v1+"/enrolments", nil)
}

// Decide approves or denies the enrolment with a code. agent, if not empty, must
// be the one that the machine asks to be.
func (c *Client) Decide(ctx context.Context, code, agent string, approve bool) (Enrolment, error) {
	verb := "/deny"
	if approve {
		verb = "/approve"
	}
	in := struct {
		Code  string `json:"code"`
		Agent string `json:"agent,omitempty"`
	}{code, agent}
	return send[Enrolment](ctx, c, http.MethodPost, v1+"/enrolments"+verb, in)
}

// OAuthClient is a program that people may let act as an agent.
type OAuthClient struct {
	ID        string    `json:"id"`
	ClientID  string    `json:"client_id"`
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`
	Agent     string    `json:"agent,omitempty"`
	Redirects []string  `json:"redirect_uris"`
	Created   time.Time `json:"created,omitzero"`
}

// OAuthClients lists programs that were registered.
func (c *Client) OAuthClients(ctx context.Context) ([]OAuthClient, error) {
	return get[[]OAuthClient](ctx, c, v1+"/oauth-clients", nil)
}

// AddOAuthClient lets every user delegate to an agent through a program.
func (c *Client) AddOAuthClient(ctx context.Context, x OAuthClient) (OAuthClient, error) {
	in := struct {
		ClientID  string   `json:"client_id"`
		Name      string   `json:"name,omitempty"`
		Agent     string   `json:"agent"`
		Redirects []string `json:"redirect_uris,omitempty"`
	}{x.ClientID, x.Name, x.Agent, x.Redirects}
	return send[OAuthClient](ctx, c, http.MethodPost, v1+"/oauth-clients", in)
}

// RemoveOAuthClient removes a program and ends what people let it do.
func (c *Client) RemoveOAuthClient(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, v1+"/oauth-clients"+segment(id), nil, nil, nil)
}

// Consent is what a person lets a program do.
type Consent struct {
	ID        string    `json:"id"`
	ClientID  string    `json:"client_id"`
	User      string    `json:"user"`
	Agent     string    `json:"agent"`
	Scope     string    `json:"scope"`
	Resources []string  `json:"resources"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	Ended     time.Time `json:"ended,omitzero"`
}

// Consents lists what you let programs do; everybody's for who may change things.
func (c *Client) Consents(ctx context.Context) ([]Consent, error) {
	return get[[]Consent](ctx, c, v1+"/consents", nil)
}

// EndConsent ends a consent and every token of it.
func (c *Client) EndConsent(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, v1+"/consents"+segment(id), nil, nil, nil)
}

// SigningKey is a key with which the server signs tokens, without its private
// half.
type SigningKey struct {
	ID         string    `json:"id"` // kid
	Generation int64     `json:"generation"`
	Created    time.Time `json:"created"`
	Starts     time.Time `json:"starts"`
	Gone       time.Time `json:"gone,omitzero"`   // when what it signed is good no more
	Status     string    `json:"status,omitzero"` // waiting, signing, published or gone
}

// SigningKeys lists the keys of the issuer, the oldest first.
func (c *Client) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	return get[[]SigningKey](ctx, c, v1+"/signing-keys", nil)
}

// RotateSigningKey makes a new signing key. It signs after an hour, or at once,
// which ends the old one and everything it signed. Needs a reason.
func (c *Client) RotateSigningKey(ctx context.Context, atOnce bool) (SigningKey, error) {
	in := struct {
		AtOnce bool `json:"at_once,omitempty"`
	}{atOnce}
	return send[SigningKey](ctx, c, http.MethodPost, v1+"/signing-keys/rotate", in)
}

// RetireSigningKey ends a key that does not sign, and everything it signed.
// Needs a reason.
func (c *Client) RetireSigningKey(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, v1+"/signing-keys"+segment(id)+"/retire", nil, struct{}{}, nil)
}

// Door is a connection of which an agent may use something.
type Door struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Dialect string `json:"dialect,omitempty"`
}

// ProvedRun is a run that was started with a proof instead of a person's token.
type ProvedRun struct {
	RunToken
	Doors []Door
}

// OAuthError is an answer of the token endpoint that is no token.
type OAuthError struct {
	Status      int
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

// Error returns the description.
func (e *OAuthError) Error() string {
	if e.Description == "" {
		return fmt.Sprintf("the server answered %d %s", e.Status, e.Code)
	}
	return e.Description
}

const runType = "urn:countersign:params:oauth:token-type:run"

// oauth posts a form to a door of the token service and decodes the answer.
func (c *Client) oauth(ctx context.Context, path string, q url.Values, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, strings.NewReader(q.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w at %s: set COUNTERSIGN_URL (%w)", ErrUnreachable, c.base, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		e := &OAuthError{Status: resp.StatusCode}
		_ = json.Unmarshal(b, e) // what is no JSON is told by its status
		return e
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// startRun asks the token endpoint for a run token.
func (c *Client) startRun(ctx context.Context, q url.Values, ttl time.Duration) (ProvedRun, error) {
	q.Set("requested_token_type", runType)
	q.Set("countersign_life", strconv.Itoa(int(ttl/time.Second)))
	var a struct {
		Token     string `json:"access_token"`
		ExpiresIn int64  `json:"expires_in"`
		Agent     string `json:"countersign_agent"`
		Run       string `json:"countersign_run"`
		Doors     []Door `json:"countersign_connections"`
	}
	if err := c.oauth(ctx, "/oauth2/token", q, &a); err != nil {
		return ProvedRun{}, err
	}
	return ProvedRun{RunToken{Token: a.Token, Run: a.Run, Agent: a.Agent, Expires: time.Now().Add(time.Duration(a.ExpiresIn) * time.Second)}, a.Doors}, nil
}

// StartRunWithProof starts a run of an agent with a token of an issuer that a
// trust rule names (RFC 7523 section 2.1): no user token is needed.
func (c *Client) StartRunWithProof(ctx context.Context, agent, proof string, ttl time.Duration) (ProvedRun, error) {
	return c.startRun(ctx, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {proof}, "client_id": {agent}}, ttl)
}

// GiveBack revokes a token (RFC 7009); who holds it may.
func (c *Client) GiveBack(ctx context.Context, token string) error {
	return c.oauth(ctx, "/oauth2/revoke", url.Values{"token": {token}}, nil)
}

// AgentKey is the private key by which a machine proves to be an agent. It
// never leaves the machine.
type AgentKey struct {
	URL     string          `json:"url"`
	Agent   string          `json:"agent"`
	JWK     jose.JSONWebKey `json:"-"`
	Private jsontext.Value  `json:"private_key"` // JWK
}

// NewAgentKey makes a key for an agent of the server at url.
func NewAgentKey(url, agent string) (AgentKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return AgentKey{}, err
	}
	k := AgentKey{URL: strings.TrimRight(url, "/"), Agent: agent, JWK: jose.JSONWebKey{Key: private, KeyID: rand.Text(), Algorithm: string(jose.ES256), Use: "sig"}}
	k.Private, err = k.JWK.MarshalJSON()
	return k, err
}

// ReadAgentKey reads a key file, refusing one that others can read.
func ReadAgentKey(file string) (AgentKey, error) {
	var k AgentKey
	info, err := os.Stat(file)
	if err != nil {
		return k, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return k, fmt.Errorf("%s can be read by others: remove it, and enrol again", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(b, &k); err != nil || k.JWK.UnmarshalJSON(k.Private) != nil {
		return k, fmt.Errorf("%s holds no key: remove it, and enrol again", file)
	}
	return k, nil
}

// Write stores the key in file, mode 0600, atomically.
func (k AgentKey) Write(file string) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(b); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// assertion proves that the key is held (RFC 7523 section 2.2). It works once.
func (k AgentKey) assertion() (url.Values, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k.JWK}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	claims, err := json.Marshal(map[string]any{"iss": k.Agent, "sub": k.Agent, "aud": k.URL, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "jti": rand.Text()})
	if err != nil {
		return nil, err
	}
	jws, err := signer.Sign(claims)
	if err != nil {
		return nil, err
	}
	compact, err := jws.CompactSerialize()
	return url.Values{"client_id": {k.Agent}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {compact}}, err
}

// StartRunWithKey starts a run of the key's agent.
func (c *Client) StartRunWithKey(ctx context.Context, k AgentKey, ttl time.Duration) (ProvedRun, error) {
	q, err := k.assertion()
	if err != nil {
		return ProvedRun{}, err
	}
	q.Set("grant_type", "client_credentials")
	return c.startRun(ctx, q, ttl)
}

// AccessToken gets a token of the key's agent for minutes, good at resources
// (URLs such as https://host/mcp/ledger) alone. An empty scope is all of it.
func (c *Client) AccessToken(ctx context.Context, k AgentKey, scope string, resources ...string) (string, error) {
	q, err := k.assertion()
	if err != nil {
		return "", err
	}
	q.Set("grant_type", "client_credentials")
	q["resource"] = resources
	if scope != "" {
		q.Set("scope", scope)
	}
	var a struct {
		Token string `json:"access_token"`
	}
	return a.Token, c.oauth(ctx, "/oauth2/token", q, &a)
}

// ActFor gets a token with which the key's agent acts on behalf of whoever
// holds token, for no more and for no longer (RFC 8693).
func (c *Client) ActFor(ctx context.Context, k AgentKey, token, scope string, resources ...string) (string, error) {
	x, err := c.Exchange(ctx, Exchange{Subject: token, Key: &k, Scope: scope, Resources: resources})
	return x.Token, err
}

// EnrolmentCodes is what a machine gets that asks to be let in.
type EnrolmentCodes struct {
	Device   string `json:"device_code"`
	User     string `json:"user_code"` // for a person to approve
	Expires  int64  `json:"expires_in"`
	Interval int64  `json:"interval"`
}

// Enrol asks to be let in as the key's agent. A person approves the user code.
func (c *Client) Enrol(ctx context.Context, k AgentKey, host string) (EnrolmentCodes, error) {
	var codes EnrolmentCodes
	q, err := k.assertion()
	if err != nil {
		return codes, err
	}
	public, err := k.JWK.Public().MarshalJSON()
	if err != nil {
		return codes, err
	}
	q.Set("jwk", string(public))
	q.Set("host", host)
	return codes, c.oauth(ctx, "/oauth2/device_authorization", q, &codes)
}

// AwaitEnrolment waits until a person has answered, and returns the first run.
func (c *Client) AwaitEnrolment(ctx context.Context, k AgentKey, codes EnrolmentCodes, ttl time.Duration) (ProvedRun, error) {
	interval := time.Duration(max(codes.Interval, 1)) * time.Second
	for {
		q, err := k.assertion()
		if err != nil {
			return ProvedRun{}, err
		}
		q.Set("grant_type", "urn:ietf:params:oauth:grant-type:device_code")
		q.Set("device_code", codes.Device)
		run, err := c.startRun(ctx, q, ttl)
		e, ok := errors.AsType[*OAuthError](err)
		switch {
		case ok && e.Code == "slow_down":
			interval += 5 * time.Second
		case !ok || e.Code != "authorization_pending":
			return run, err
		}
		select {
		case <-ctx.Done():
			return ProvedRun{}, ctx.Err()
		case <-time.After(interval):
		}
	}
}
