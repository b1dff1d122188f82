package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// OIDC lets people sign in at an OpenID provider (docs/sign-in.md). Without an
// issuer there is none, and local passwords are the only way in.
type OIDC struct {
	Issuer   string `yaml:"issuer"`    // https URL, exactly as the provider writes it
	ClientID string `yaml:"client_id"` // of the registration whose redirect URI is URL/api/v1/login/oidc/callback
	// ClientSecret says where the client's secret is: file:PATH or env:NAME. Empty
	// is a public client, which PKCE protects alone.
	ClientSecret string `yaml:"client_secret"`
	Scopes       string `yaml:"scopes"` // divided by spaces. Default "openid profile email offline_access"
	URL          string `yaml:"url"`    // at which browsers reach this server, if not url
	CA           string `yaml:"ca"`     // PEM file of the certificates to trust. Default: the system's

	NameClaim  string `yaml:"name_claim"`  // the login of new people. Default preferred_username, else what is before the @ of email
	EmailClaim string `yaml:"email_claim"` // Default email
	GroupClaim string `yaml:"group_claim"` // Default groups
	TrustEmail bool   `yaml:"trust_email"` // take addresses without email_verified: only if the provider lets nobody choose theirs

	Join         bool   `yaml:"join"`          // people who are not registered become users. Default false
	Domains      string `yaml:"domains"`       // e-mail domains that may sign in, divided by commas. Default: all
	RequireGroup string `yaml:"require_group"` // provider groups one of which everybody must be in, divided by commas. Default: none
	Roles        Pairs  `yaml:"roles"`         // provider group: role. With any, the provider decides roles; the highest counts, viewer without one
	Groups       Pairs  `yaml:"groups"`        // provider group: group of Countersign

	// CheckEvery is how often the provider is asked whether each person is still
	// there (needs offline_access). Default 15m, at least 1s.
	CheckEvery time.Duration `yaml:"check_every"`
}

// Lifecycle says what happens to agents without an owner, and to idle ones
// (docs/lifecycle.md).
type Lifecycle struct {
	// Production and Grace say for how long the backup owner answers for agents
	// of a user who left, until they are suspended: agents in production, and
	// others. Defaults 0 (suspended at once) and 72h, at most 2160h.
	Production time.Duration `yaml:"production_grace"`
	Grace      time.Duration `yaml:"grace"`
	// IdleAfter is after how long without a call an agent is suspended, and
	// IdleWarning how long before that a finding says so. Defaults 2160h (90 days)
	// and 336h (14 days); a negative IdleAfter is never.
	IdleAfter   time.Duration `yaml:"idle_after"`
	IdleWarning time.Duration `yaml:"idle_warning"`
}

// Posture says how long evidence is kept (docs/posture.md).
type Posture struct {
	// Keep is how long results are kept. Default 9600h (400 days), at least 4392h
	// (183 days).
	Keep time.Duration `yaml:"keep"`
}

func (p *Posture) validate() []error {
	if p.Keep < 183*24*time.Hour {
		return []error{errors.New("posture: keep is at least 4392h (183 days)")}
	}
	return nil
}

// Pairs are names and values. In the environment they are written as
// name=value,name=value.
type Pairs map[string]string

func parsePairs(text string) (Pairs, error) {
	p := Pairs{}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("%q is not name=value,name=value", text)
		}
		p[name] = value
	}
	return p, nil
}

// List returns the values of a text divided by commas.
func List(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

func (o *OIDC) fill() {
	or(&o.Scopes, "openid profile email offline_access")
	or(&o.NameClaim, "preferred_username")
	or(&o.EmailClaim, "email")
	or(&o.GroupClaim, "groups")
	or(&o.CheckEvery, 15*time.Minute)
}

func (o *OIDC) validate() (errs []error) {
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("oidc."+key+": "+format, args...))
	}
	if o.Issuer == "" {
		return nil
	}
	if u, err := url.Parse(o.Issuer); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		bad("issuer", "%q is no https URL", o.Issuer)
	}
	if o.ClientID == "" {
		bad("client_id", "is needed with an issuer")
	}
	if s := o.ClientSecret; s != "" && !strings.HasPrefix(s, "file:") && !strings.HasPrefix(s, "env:") {
		bad("client_secret", "write file:PATH or env:NAME, never the secret itself")
	}
	if !slices.Contains(strings.Fields(o.Scopes), "openid") {
		bad("scopes", "openid must be among them")
	}
	if o.URL != "" {
		if u, err := url.Parse(o.URL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || (u.Path != "" && u.Path != "/") {
			bad("url", "%q is no http(s) URL of a server", o.URL)
		}
	}
	for group, role := range o.Roles {
		if !slices.Contains([]string{"admin", "operator", "owner", "approver", "auditor", "viewer"}, role) {
			bad("roles", "%s: %q is no role", group, role)
		}
	}
	if o.CheckEvery < time.Second {
		bad("check_every", "%s is too often; use at least 1s (the default is 15m)", o.CheckEvery)
	}
	return errs
}

// Secret reads the client's secret; empty for a public client.
func (o *OIDC) Secret() (string, error) {
	if name, ok := strings.CutPrefix(o.ClientSecret, "env:"); ok {
		if v := os.Getenv(name); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("oidc.client_secret: the environment has no %s", name)
	}
	path, ok := strings.CutPrefix(o.ClientSecret, "file:")
	if !ok {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("oidc.client_secret: %w", err)
	}
	if s := strings.TrimSpace(string(b)); s != "" {
		return s, nil
	}
	return "", fmt.Errorf("oidc.client_secret: %s is empty", path)
}

// Certificates reads the certificates to trust; nil for the system's.
func (o *OIDC) Certificates() ([]byte, error) {
	if o.CA == "" {
		return nil, nil
	}
	b, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, fmt.Errorf("oidc.ca: %w", err)
	}
	return b, nil
}

func (l *Lifecycle) fill() {
	or(&l.Grace, 72*time.Hour)
	or(&l.IdleAfter, 90*24*time.Hour)
	or(&l.IdleWarning, min(14*24*time.Hour, max(l.IdleAfter/2, 0)))
}

func (l *Lifecycle) validate() (errs []error) {
	if l.Production < 0 || l.Grace < 0 || l.Production > 90*24*time.Hour || l.Grace > 90*24*time.Hour {
		errs = append(errs, errors.New("lifecycle: a grace is between 0 and 2160h"))
	}
	if l.IdleWarning < 0 || l.IdleAfter > 0 && (l.IdleAfter < time.Second || l.IdleWarning >= l.IdleAfter) {
		errs = append(errs, errors.New("lifecycle: idle_after is negative (never) or at least 1s, and idle_warning less"))
	}
	return errs
}
