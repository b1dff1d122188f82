package exchange

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"time"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
)

// OAuth makes access tokens by client credentials. The secret's value is the
// client secret. Settings: token_url, client_id, scope, audience, resource
// (RFC 8707), auth (basic, the default, or post), allow_private.
type OAuth struct{ Now func() time.Time }

// Check implements secrets.Minter.
func (OAuth) Check(spec secrets.Spec) error {
	s := spec.Settings
	if err := known(s, "token_url!", "client_id!", "scope", "audience", "resource", "auth", "allow_private"); err != nil {
		return err
	}
	if a := s["auth"]; a != "" && a != "basic" && a != "post" {
		return ErrSettings.Say("settings: auth: must be basic or post")
	}
	return wire.Allow(s).Check(s["token_url"])
}

// Traits implements secrets.Minter.
func (OAuth) Traits() secrets.Traits { return secrets.Traits{} }

// Mint implements secrets.Minter.
func (o OAuth) Mint(ctx context.Context, m secrets.Material) (secrets.Minted, error) {
	s := m.Secret.Settings
	form := url.Values{"grant_type": {"client_credentials"}}
	for _, k := range []string{"scope", "audience", "resource"} {
		if s[k] != "" {
			form.Set(k, s[k])
		}
	}
	header, secret := http.Header{}, string(m.Value.Expose())
	if s["auth"] == "post" {
		form.Set("client_id", s["client_id"])
		form.Set("client_secret", secret)
	} else { // both form-encoded first: RFC 6749 section 2.3.1
		pair := url.QueryEscape(s["client_id"]) + ":" + url.QueryEscape(secret)
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	}
	now := o.Now()
	a, err := wire.Allow(s).Form(ctx, s["token_url"], header, form)
	return read(a, err, now)
}
