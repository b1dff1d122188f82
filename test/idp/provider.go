package idp

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json/v2"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The one client that the provider knows.
const (
	ClientID = "countersign"
	Secret   = "idp-client-secret"
)

// User is who signs in. Claims are added to the ID token, except sub.
type User struct {
	Subject string
	Claims  map[string]any
	Gone    bool // refresh tokens are refused
}

// Provider is a running provider. What a test may change is under Lock.
type Provider struct {
	*httptest.Server
	sync.Mutex
	User User
	// Tamper changes an ID token's claims before it is signed; Sign replaces how
	// it is signed; Hide leaves claims to userinfo. Nil does nothing.
	Tamper func(claims map[string]any)
	Sign   func(claims []byte) string
	Hide   []string
	// Iss is sent in the authorization response; "-" sends none.
	Iss        string
	NoRefresh  bool
	NoDevice   bool
	Broken     bool // the token endpoint answers 500
	Deny       bool // authorizations are declined
	Now        func() time.Time
	Asked      int // requests to the token endpoint
	key, other *rsa.PrivateKey
	codes      map[string]grant
	refresh    map[string]User
	access     map[string]User
	devices    map[string]string // device code to user code
	approved   map[string]User   // user code
	redirects  []string
}

type grant struct {
	user                       User
	redirect, nonce, challenge string
}

// New starts a provider; Close ends it.
func New(tls func(*httptest.Server)) (*Provider, error) {
	p := &Provider{codes: map[string]grant{}, refresh: map[string]User{}, access: map[string]User{}, devices: map[string]string{}, approved: map[string]User{}, Now: time.Now}
	for _, k := range []**rsa.PrivateKey{&p.key, &p.other} {
		var err error
		if *k, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	for path, fn := range map[string]http.HandlerFunc{"GET /.well-known/openid-configuration": p.discovery, "GET /keys": p.keys, "GET /authorize": p.authorize,
		"POST /token": p.token, "GET /userinfo": p.userinfo, "POST /device": p.device, "POST /control": p.control} {
		mux.HandleFunc(path, fn)
	}
	p.Server = httptest.NewUnstartedServer(mux)
	if tls != nil {
		tls(p.Server)
	}
	p.Server.StartTLS()
	return p, nil
}

// CA is the certificate to trust, as PEM.
func (p *Provider) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	p.Lock()
	defer p.Unlock()
	d := map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys", "userinfo_endpoint": p.URL + "/userinfo",
		"id_token_signing_alg_values_supported": []string{"RS256"}, "authorization_response_iss_parameter_supported": true, "response_types_supported": []string{"code"},
		"subject_types_supported": []string{"public"}}
	if !p.NoDevice {
		d["device_authorization_endpoint"] = p.URL + "/device"
	}
	answer(w, http.StatusOK, d)
}

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	raw, _ := jose.JSONWebKey{Key: &p.key.PublicKey, KeyID: "one", Algorithm: "RS256", Use: "sig"}.MarshalJSON()
	fmt.Fprintf(w, `{"keys":[%s]}`, raw)
}

func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	p.Lock()
	defer p.Unlock()
	q := r.URL.Query()
	back := url.Values{"state": {q.Get("state")}}
	switch iss := p.Iss; iss {
	case "-":
	case "":
		back.Set("iss", p.URL)
	default:
		back.Set("iss", iss)
	}
	if q.Get("client_id") != ClientID || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" || q.Get("state") == "" {
		http.Error(w, "bad authorization request", http.StatusBadRequest)
		return
	}
	p.redirects = append(p.redirects, q.Get("redirect_uri"))
	if p.Deny {
		back.Set("error", "access_denied")
	} else {
		code := rand.Text()
		p.codes[code] = grant{p.User, q.Get("redirect_uri"), q.Get("nonce"), q.Get("code_challenge")}
		back.Set("code", code)
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	p.Lock()
	defer p.Unlock()
	p.Asked++
	id, secret, _ := r.BasicAuth()
	if id == "" {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	refuse := func(code string) { answer(w, http.StatusBadRequest, map[string]any{"error": code}) }
	switch {
	case p.Broken:
		http.Error(w, "broken", http.StatusInternalServerError)
	case id != ClientID || secret != Secret:
		answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
	case r.PostFormValue("grant_type") == "authorization_code":
		g, ok := p.codes[r.PostFormValue("code")]
		delete(p.codes, r.PostFormValue("code"))
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if !ok || g.redirect != r.PostFormValue("redirect_uri") || g.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
			refuse("invalid_grant")
			return
		}
		p.issue(w, g.user, g.nonce)
	case r.PostFormValue("grant_type") == "refresh_token":
		u, ok := p.refresh[r.PostFormValue("refresh_token")]
		delete(p.refresh, r.PostFormValue("refresh_token"))
		if p.User.Subject == u.Subject {
			u = p.User // as they are now
		}
		if !ok || u.Gone {
			refuse("invalid_grant")
			return
		}
		p.issue(w, u, "")
	case strings.HasSuffix(r.PostFormValue("grant_type"), "device_code"):
		code, ok := p.devices[r.PostFormValue("device_code")]
		u, yes := p.approved[code]
		switch {
		case !ok:
			refuse("expired_token")
		case !yes:
			refuse("authorization_pending")
		default:
			delete(p.devices, r.PostFormValue("device_code"))
			p.issue(w, u, "")
		}
	default:
		refuse("unsupported_grant_type")
	}
}

func (p *Provider) issue(w http.ResponseWriter, u User, nonce string) {
	now := p.Now()
	c := map[string]any{"iss": p.URL, "aud": ClientID, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(c, u.Claims)
	c["sub"] = u.Subject
	if nonce != "" {
		c["nonce"] = nonce
	}
	for _, name := range p.Hide {
		delete(c, name)
	}
	if p.Tamper != nil {
		p.Tamper(c)
	}
	b, _ := json.Marshal(c)
	token := p.RS256(b)
	if p.Sign != nil {
		token = p.Sign(b)
	}
	access := rand.Text()
	p.access[access] = u
	out := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": token}
	if !p.NoRefresh {
		next := "idp-refresh-" + rand.Text()
		p.refresh[next] = u
		out["refresh_token"] = next
	}
	answer(w, http.StatusOK, out)
}

// RS256 signs with the provider's key.
func (p *Provider) RS256(claims []byte) string { return sign(p.key, "one", jose.RS256, claims) }

// Forged signs with a key that is not the provider's, under its name.
func (p *Provider) Forged(claims []byte) string { return sign(p.other, "one", jose.RS256, claims) }

// Symmetric signs with the provider's public key as if it were a shared secret.
func (p *Provider) Symmetric(claims []byte) string {
	pub, _ := jose.JSONWebKey{Key: &p.key.PublicKey}.MarshalJSON()
	return sign(pub, "one", jose.HS256, claims)
}

// Unsigned is a token with alg none.
func Unsigned(claims []byte) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims) + "."
}

func sign(key any, kid string, alg jose.SignatureAlgorithm, claims []byte) string {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "cannot sign: " + err.Error()
	}
	jws, err := s.Sign(claims)
	if err != nil {
		return "cannot sign: " + err.Error()
	}
	token, _ := jws.CompactSerialize()
	return token
}

func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	p.Lock()
	defer p.Unlock()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	u, ok := p.access[token]
	if !ok || u.Gone {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	c := maps.Clone(u.Claims)
	if c == nil {
		c = map[string]any{}
	}
	c["sub"] = u.Subject
	answer(w, http.StatusOK, c)
}

func (p *Provider) device(w http.ResponseWriter, r *http.Request) {
	p.Lock()
	defer p.Unlock()
	if r.PostFormValue("client_id") != ClientID {
		answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return
	}
	code, user := rand.Text(), rand.Text()[:8]
	p.devices[code] = user
	answer(w, http.StatusOK, map[string]any{"device_code": code, "user_code": user, "verification_uri": p.URL + "/activate", "expires_in": 600, "interval": 1})
}

// Approve approves a device sign-in as the present user.
func (p *Provider) Approve(userCode string) {
	p.Lock()
	defer p.Unlock()
	p.approved[userCode] = p.User
}

// Redirects lists the redirect URIs that were asked for.
func (p *Provider) Redirects() []string {
	p.Lock()
	defer p.Unlock()
	return append([]string{}, p.redirects...)
}

// control lets a script, which cannot reach in, say who signs in:
// sub, gone, approve=USER-CODE, and everything else as a claim; groups are
// divided by commas.
func (p *Provider) control(_ http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	if code := r.PostForm.Get("approve"); code != "" {
		p.Approve(code)
		return
	}
	p.Lock()
	defer p.Unlock()
	p.User = User{Subject: r.PostForm.Get("sub"), Gone: r.PostForm.Get("gone") != "", Claims: map[string]any{"email_verified": true}}
	for name := range r.PostForm {
		switch v := r.PostForm.Get(name); name {
		case "sub", "gone":
		case "groups":
			p.User.Claims[name] = strings.Split(v, ",")
		default:
			p.User.Claims[name] = v
		}
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := json.MarshalWrite(w, v); err != nil {
		fmt.Fprintln(os.Stderr, "idp:", err)
	}
}
