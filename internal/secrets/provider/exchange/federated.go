package exchange

import (
	"context"
	"encoding/xml"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
)

// Issuer makes tokens of our own issuer, which providers trust.
type Issuer interface {
	// Assertion returns a signed JWT that says to audience who subject is.
	Assertion(subject, audience string, life time.Duration) (token string, expires time.Time, err error)
}

// Federated exchanges our own issuer's token for a provider's. Such a secret
// has no value. Settings: provider (anthropic, openai, aws or rfc8693), subject
// (default: connection/NAME), audience, url, and what the provider needs:
// federation_rule_id, organization_id, service_account_id, workspace_id
// (anthropic); identity_provider_id, service_account_id (openai); role_arn,
// region, duration in seconds (aws); scope, resource (rfc8693).
type Federated struct {
	Issuer Issuer
	Now    func() time.Time
}

// assertionLife is how long our own token is good: it is used at once.
const assertionLife = 5 * time.Minute

type provider struct {
	url, audience string
	need, may     []string
	exchange      func(ctx context.Context, s map[string]string, to, assertion string, now time.Time) (secrets.Minted, error)
}

var providers = map[string]provider{
	"anthropic": {"https://api.anthropic.com/v1/oauth/token", "https://api.anthropic.com", []string{"federation_rule_id", "organization_id", "service_account_id"}, []string{"workspace_id"}, anthropic},
	"openai":    {"https://auth.openai.com/oauth/token", "https://api.openai.com/v1", []string{"identity_provider_id", "service_account_id"}, nil, openAI},
	"aws":       {"https://sts.amazonaws.com", "sts.amazonaws.com", []string{"role_arn"}, []string{"duration"}, awsSTS},
	"rfc8693":   {"", "", []string{"url", "audience"}, []string{"scope", "resource"}, rfc8693},
}

// Check implements secrets.Minter.
func (Federated) Check(spec secrets.Spec) error {
	s := spec.Settings
	p, ok := providers[s["provider"]]
	if !ok {
		return ErrSettings.Say("settings: provider: must be anthropic, openai, aws or rfc8693")
	}
	names := []string{"provider!", "subject", "allow_private"}
	if p.url != "" {
		names = append(names, "url", "audience")
	}
	for _, n := range p.need {
		names = append(names, n+"!")
	}
	if err := known(s, append(names, p.may...)...); err != nil {
		return err
	}
	if n, err := strconv.Atoi(s["duration"]); s["duration"] != "" && (err != nil || n < 900 || n > 43200) {
		return ErrSettings.Say("settings: duration: must be 900 to 43200 seconds")
	}
	return wire.Allow(s).Check(base(s, p.url))
}

// Traits implements secrets.Minter.
func (Federated) Traits() secrets.Traits { return secrets.Traits{Bare: true} }

// Mint implements secrets.Minter.
func (f Federated) Mint(ctx context.Context, m secrets.Material) (secrets.Minted, error) {
	s := m.Secret.Settings
	p := providers[s["provider"]]
	subject, audience := s["subject"], s["audience"]
	if subject == "" {
		subject = "connection/" + m.Secret.Connection
	}
	if audience == "" {
		audience = p.audience
	}
	assertion, _, err := f.Issuer.Assertion(subject, audience, assertionLife)
	if err != nil {
		return secrets.Minted{}, err
	}
	got, err := p.exchange(ctx, s, base(s, p.url), assertion, f.Now())
	if err == nil {
		got.Detail = map[string]string{"provider": s["provider"], "subject": subject}
	}
	return got, err
}

const (
	grantJWT      = "urn:ietf:params:oauth:grant-type:jwt-bearer"     // RFC 7523
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693
	typeJWT       = "urn:ietf:params:oauth:token-type:jwt"
)

// anthropic speaks https://platform.claude.com/docs/manage-claude/wif-reference.
func anthropic(ctx context.Context, s map[string]string, to, assertion string, now time.Time) (secrets.Minted, error) {
	ask := map[string]string{"grant_type": grantJWT, "assertion": assertion}
	for _, k := range []string{"federation_rule_id", "organization_id", "service_account_id", "workspace_id"} {
		if s[k] != "" {
			ask[k] = s[k]
		}
	}
	a, err := wire.Allow(s).JSON(ctx, http.MethodPost, to, nil, ask)
	return read(a, err, now)
}

// openAI speaks https://developers.openai.com/api/reference/workload-identity-federation.
func openAI(ctx context.Context, s map[string]string, to, assertion string, now time.Time) (secrets.Minted, error) {
	a, err := wire.Allow(s).JSON(ctx, http.MethodPost, to, nil, map[string]string{"grant_type": grantExchange, "subject_token_type": typeJWT, "subject_token": assertion,
		"identity_provider_id": s["identity_provider_id"], "service_account_id": s["service_account_id"]})
	return read(a, err, now)
}

func rfc8693(ctx context.Context, s map[string]string, to, assertion string, now time.Time) (secrets.Minted, error) {
	form := url.Values{"grant_type": {grantExchange}, "subject_token_type": {typeJWT}, "subject_token": {assertion}}
	for _, k := range []string{"scope", "resource"} {
		if s[k] != "" {
			form.Set(k, s[k])
		}
	}
	a, err := wire.Allow(s).Form(ctx, to, nil, form)
	return read(a, err, now)
}

// awsSTS asks for AssumeRoleWithWebIdentity. What it returns is no bearer token
// but the three parts of a signing credential, as a URL whose parts a program's
// environment can name: secret://NAME#username is the access key, #password the
// secret key, #database the session token.
func awsSTS(ctx context.Context, s map[string]string, to, assertion string, _ time.Time) (secrets.Minted, error) {
	form := url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {s["role_arn"]},
		"RoleSessionName": {"countersign"}, "WebIdentityToken": {assertion}}
	if s["duration"] != "" {
		form.Set("DurationSeconds", s["duration"])
	}
	a, err := wire.Allow(s).Form(ctx, to, http.Header{"Accept": {"text/xml"}}, form)
	if err == nil {
		err = a.Good()
	}
	if err != nil {
		return secrets.Minted{}, err
	}
	var got struct {
		Credentials struct {
			AccessKeyId, SecretAccessKey, SessionToken string
			Expiration                                 time.Time
		} `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	}
	c := &got.Credentials
	if xml.Unmarshal(a.Body, &got) != nil || c.AccessKeyId == "" || c.SecretAccessKey == "" || c.SessionToken == "" || c.Expiration.IsZero() {
		return secrets.Minted{}, wire.ErrAnswer
	}
	u := url.URL{Scheme: "aws", User: url.UserPassword(c.AccessKeyId, c.SecretAccessKey), Host: "sts", Path: "/" + c.SessionToken}
	return secrets.Minted{Value: secrets.NewValue([]byte(u.String())), Expires: c.Expiration}, nil
}
