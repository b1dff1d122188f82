package exchange

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
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
)

// GitHubApp makes installation tokens. The secret's value is the App's private
// key in PEM. Settings: app_id (or client ID), installation_id, url (of the
// API, for GitHub Enterprise), repositories (names), permissions
// ("contents=read,issues=write"), allow_private.
type GitHubApp struct{ Now func() time.Time }

const gitHubAPI = "https://api.github.com"

var digits = regexp.MustCompile(`^[0-9]{1,20}$`)

// Check implements secrets.Minter.
func (GitHubApp) Check(spec secrets.Spec) error {
	s := spec.Settings
	if err := known(s, "app_id!", "installation_id!", "url", "repositories", "permissions", "allow_private"); err != nil {
		return err
	}
	if !digits.MatchString(s["installation_id"]) {
		return ErrSettings.Say("settings: installation_id: must be a number")
	}
	if _, err := permissions(s["permissions"]); err != nil {
		return err
	}
	return wire.Allow(s).Check(base(s, gitHubAPI))
}

func base(s map[string]string, standard string) string {
	if s["url"] == "" {
		return standard
	}
	return strings.TrimRight(s["url"], "/")
}

func permissions(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	out := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || k == "" || v != "read" && v != "write" && v != "admin" {
			return nil, ErrSettings.Say("settings: permissions: must be like contents=read,issues=write")
		}
		out[k] = v
	}
	return out, nil
}

// Traits implements secrets.Minter.
func (GitHubApp) Traits() secrets.Traits { return secrets.Traits{} }

// Mint implements secrets.Minter.
func (g GitHubApp) Mint(ctx context.Context, m secrets.Material) (secrets.Minted, error) {
	s := m.Secret.Settings
	key, err := rsaKey(m.Value)
	if err != nil {
		return secrets.Minted{}, err
	}
	assertion, err := appToken(key, s["app_id"], g.Now())
	if err != nil {
		return secrets.Minted{}, err
	}
	var ask struct {
		Repositories []string          `json:"repositories,omitempty"`
		Permissions  map[string]string `json:"permissions,omitempty"`
	}
	for name := range strings.SplitSeq(s["repositories"], ",") {
		if name = strings.TrimSpace(name); name != "" {
			ask.Repositories = append(ask.Repositories, name)
		}
	}
	if ask.Permissions, err = permissions(s["permissions"]); err != nil {
		return secrets.Minted{}, err
	}
	header := http.Header{"Authorization": {"Bearer " + assertion}, "Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"}}
	a, err := wire.Allow(s).JSON(ctx, http.MethodPost, base(s, gitHubAPI)+"/app/installations/"+s["installation_id"]+"/access_tokens", header, ask)
	if err == nil {
		err = a.Good()
	}
	var got struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expires_at"`
	}
	if err == nil {
		err = a.Decode(&got)
	}
	if err != nil {
		return secrets.Minted{}, err
	}
	if got.Token == "" || got.Expires.IsZero() {
		return secrets.Minted{}, wire.ErrAnswer
	}
	return secrets.Minted{Value: secrets.NewValue([]byte(got.Token)), Expires: got.Expires}, nil
}

func rsaKey(v secrets.Value) (*rsa.PrivateKey, error) {
	bad := ErrSettings.Say("the value must be the App's RSA private key in PEM")
	block, _ := pem.Decode(v.Expose())
	if block == nil {
		return nil, bad
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := any.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, bad
	}
	return key, nil
}

// appToken signs who we are (RS256), for less than the ten minutes that GitHub
// takes, and from a minute ago, for clocks differ.
func appToken(key *rsa.PrivateKey, app string, now time.Time) (string, error) {
	claims, err := json.Marshal(map[string]any{"iss": app, "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(8 * time.Minute).Unix()}, json.Deterministic(true))
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", ErrSettings.Say("the App's private key cannot sign")
	}
	return text + "." + b64(sig), nil
}
