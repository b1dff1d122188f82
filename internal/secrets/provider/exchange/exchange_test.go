package exchange_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json/v2"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/exchange"
)

var (
	ctx = context.Background()
	now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
)

func clock() time.Time { return now }

func serve(t *testing.T, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// mint checks the settings and mints.
func mint(m secrets.Minter, value string, settings map[string]string) (secrets.Minted, error) {
	settings["allow_private"] = "true"
	spec := secrets.Spec{Name: "key", Connection: "up", Settings: settings}
	if err := m.Check(spec); err != nil {
		return secrets.Minted{}, err
	}
	return m.Mint(ctx, secrets.Material{Secret: secrets.Secret{Spec: spec}, Value: secrets.NewValue([]byte(value))})
}

func TestOAuth(t *testing.T) {
	to := serve(t, func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if r.ParseForm(); r.PostForm.Get("client_id") != "" {
			user, password, ok = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret"), true
		} else if ok { // RFC 6749 section 2.3.1
			user, password = strings.ReplaceAll(user, "+", " "), strings.ReplaceAll(strings.ReplaceAll(password, "%2F", "/"), "+", " ")
		}
		if !ok || user != "app" || password != "the client/secret" || r.PostForm.Get("grant_type") != "client_credentials" {
			http.Error(w, `{"error": "invalid_client", "error_description": "the client/secret is wrong"}`, http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token": "token-for-%s", "token_type": "Bearer", "expires_in": 3600}`, r.PostForm.Get("scope"))
	})
	for _, auth := range []string{"", "basic", "post"} {
		got, err := mint(exchange.OAuth{Now: clock}, "the client/secret", map[string]string{"token_url": to, "client_id": "app", "scope": "read", "auth": auth})
		if err != nil || string(got.Value.Expose()) != "token-for-read" || !got.Expires.Equal(now.Add(time.Hour)) {
			t.Errorf("%s: %q, %v, %v", auth, got.Value.Expose(), got.Expires, err)
		}
	}
	_, err := mint(exchange.OAuth{Now: clock}, "wrong", map[string]string{"token_url": to, "client_id": "app"})
	if fault.KindOf(err) != fault.Upstream || strings.Contains(err.Error(), "client/secret") {
		t.Errorf("what the provider says may quote a secret: %v", err)
	}
	for _, s := range []map[string]string{{}, {"token_url": to}, {"token_url": "ftp://x", "client_id": "a"}, {"token_url": to, "client_id": "a", "auth": "x"}, {"token_url": to, "client_id": "a", "colour": "x"}} {
		if _, err := mint(exchange.OAuth{Now: clock}, "x", s); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v: %v", s, err)
		}
	}
}

func TestBadTokenEndpoints(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"not JSON": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"no token": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"expires_in": 5}`) },
		"other type": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token": "xyzxyzxyz", "token_type": "mac"}`)
		},
		"header in it": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"access_token": "xyz\r\nX: y"}`) },
		"twice": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token": "a", "access_token": "b"}`)
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		},
		"without end":  func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 2<<20)) },
		"server error": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"broken off":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"negative life": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"access_token": "xyzxyzxyz", "expires_in": -5}`)
		},
	} {
		got, err := mint(exchange.OAuth{Now: clock}, "s", map[string]string{"token_url": serve(t, h), "client_id": "app"})
		if name == "negative life" {
			if err != nil || !got.Expires.IsZero() {
				t.Errorf("%s: %v, %v", name, got.Expires, err)
			}
			continue
		}
		if fault.KindOf(err) != fault.Upstream {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrivateAddressesMustBeMeant(t *testing.T) {
	to := strings.Replace(serve(t, func(http.ResponseWriter, *http.Request) { t.Error("it was reached") }), "http://", "https://", 1)
	spec := secrets.Spec{Settings: map[string]string{"token_url": to, "client_id": "a"}}
	o := exchange.OAuth{Now: clock}
	if err := o.Check(spec); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Mint(ctx, secrets.Material{Secret: secrets.Secret{Spec: spec}}); fault.KindOf(err) != fault.Denied {
		t.Error(err)
	}
	spec.Settings = map[string]string{"token_url": "http://169.254.169.254/token", "client_id": "a", "allow_private": "true"}
	if _, err := o.Mint(ctx, secrets.Material{Secret: secrets.Secret{Spec: spec}}); fault.KindOf(err) != fault.Denied {
		t.Errorf("a cloud machine's own credentials: %v", err)
	}
}

func TestGitHubApp(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	to := serve(t, func(w http.ResponseWriter, r *http.Request) {
		claims, err := verify(&key.PublicKey, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		var in struct {
			Repositories []string          `json:"repositories"`
			Permissions  map[string]string `json:"permissions"`
		}
		switch {
		case err != nil || claims["iss"] != "12345" || claims["exp"].(float64)-claims["iat"].(float64) > 600:
			http.Error(w, `{"message": "A JSON web token could not be decoded"}`, http.StatusUnauthorized)
		case r.URL.Path != "/app/installations/678/access_tokens" || json.UnmarshalRead(r.Body, &in) != nil || len(in.Repositories) != 2 || in.Permissions["contents"] != "read":
			http.Error(w, `{"message": "Not Found"}`, http.StatusNotFound)
		default:
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"token": "ghs_16C7e42F292c6912E7710c838347Ae178B4a", "expires_at": "2026-11-01T13:00:00Z", "permissions": {"contents": "read"}}`)
		}
	})
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	settings := func() map[string]string {
		return map[string]string{"url": to, "app_id": "12345", "installation_id": "678", "repositories": "a, b", "permissions": "contents=read"}
	}
	for _, block := range []*pem.Block{{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}, {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		got, err := mint(exchange.GitHubApp{Now: clock}, string(pem.EncodeToMemory(block)), settings())
		if err != nil || !strings.HasPrefix(string(got.Value.Expose()), "ghs_") || !got.Expires.Equal(now.Add(time.Hour)) {
			t.Errorf("%s: %v, %v", block.Type, got.Expires, err)
		}
	}
	if _, err := mint(exchange.GitHubApp{Now: clock}, "no key", settings()); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
	bad := settings()
	bad["installation_id"] = "../x"
	if _, err := mint(exchange.GitHubApp{Now: clock}, "x", bad); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
}

func verify(key *rsa.PublicKey, token string) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("no token")
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig); err != nil {
		return nil, err
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	return claims, json.Unmarshal(b, &claims)
}

// issuer stands for our own.
type issuer struct{}

func (issuer) Assertion(subject, audience string, ttl time.Duration) (string, time.Time, error) {
	return "jwt for " + audience + " as " + subject, now.Add(ttl), nil
}

func TestFederated(t *testing.T) {
	to := serve(t, func(w http.ResponseWriter, r *http.Request) {
		in := map[string]string{}
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
			if json.UnmarshalRead(r.Body, &in) != nil {
				w.WriteHeader(400)
				return
			}
		} else {
			r.ParseForm()
			for k := range r.PostForm {
				in[k] = r.PostForm.Get(k)
			}
		}
		switch {
		case in["Action"] == "AssumeRoleWithWebIdentity" && in["RoleArn"] == "arn:aws:iam::1:role/x" && in["WebIdentityToken"] == "jwt for sts.amazonaws.com as connection/up":
			fmt.Fprint(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
				<AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>wJalr/XUtn+FEMI</SecretAccessKey><SessionToken>tok/en+==</SessionToken>
				<Expiration>2026-11-01T13:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`)
		case in["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer" && in["federation_rule_id"] == "fdrl_1" && in["assertion"] == "jwt for https://api.anthropic.com as connection/up" && in["service_account_id"] == "svac_1" && in["organization_id"] == "org":
			fmt.Fprint(w, `{"access_token": "sk-ant-oat01-xyz", "token_type": "Bearer", "expires_in": 600}`)
		case in["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange" && in["identity_provider_id"] == "idp_1" && in["subject_token"] == "jwt for https://api.openai.com/v1 as agents":
			fmt.Fprint(w, `{"access_token": "oai-short-lived", "token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "expires_in": 900}`)
		case in["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange" && in["scope"] == "read" && in["subject_token"] == "jwt for them as connection/up":
			fmt.Fprint(w, `{"access_token": "theirs-for-read", "token_type": "Bearer", "expires_in": 60}`)
		default:
			http.Error(w, `{"error": "invalid_grant"}`, http.StatusBadRequest)
		}
	})
	f := exchange.Federated{Issuer: issuer{}, Now: clock}
	for _, c := range []struct {
		want     string
		life     time.Duration
		settings map[string]string
	}{
		{"sk-ant-oat01-xyz", 10 * time.Minute, map[string]string{"provider": "anthropic", "federation_rule_id": "fdrl_1", "organization_id": "org", "service_account_id": "svac_1"}},
		{"oai-short-lived", 15 * time.Minute, map[string]string{"provider": "openai", "identity_provider_id": "idp_1", "service_account_id": "svc", "subject": "agents"}},
		{"theirs-for-read", time.Minute, map[string]string{"provider": "rfc8693", "audience": "them", "scope": "read"}},
		{"aws://ASIAEXAMPLE:wJalr%2FXUtn+FEMI@sts/tok/en+==", time.Hour, map[string]string{"provider": "aws", "role_arn": "arn:aws:iam::1:role/x"}},
	} {
		c.settings["url"] = to
		got, err := mint(f, "", c.settings)
		if err != nil || string(got.Value.Expose()) != c.want || !got.Expires.Equal(now.Add(c.life)) {
			t.Errorf("%s: %q, %v, %v", c.settings["provider"], got.Value.Expose(), got.Expires, err)
		}
	}
	for _, s := range []map[string]string{{}, {"provider": "x"}, {"provider": "anthropic"}, {"provider": "aws", "role_arn": "a", "duration": "5"}, {"provider": "rfc8693", "audience": "x"}} {
		if _, err := mint(f, "", s); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v: %v", s, err)
		}
	}
}
