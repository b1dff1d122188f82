package exchange

import (
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
)

// ErrSettings says that a secret's settings are not valid.
var ErrSettings = fault.New(fault.Invalid, "bad_secret_settings", "the settings of the secret are not valid")

// known refuses settings that are not among names, and misses those marked "!".
func known(settings map[string]string, names ...string) error {
	for k := range settings {
		if !slices.Contains(names, k) && !slices.Contains(names, k+"!") {
			return ErrSettings.Say("settings: %.40q is not known; there is %s", k, strings.ReplaceAll(strings.Join(names, ", "), "!", ""))
		}
	}
	for _, n := range names {
		if need, ok := strings.CutSuffix(n, "!"); ok && settings[need] == "" {
			return ErrSettings.Say("settings: %s is missing", need)
		}
	}
	return nil
}

// granted is a token response (RFC 6749 section 5.1).
type granted struct {
	AccessToken string  `json:"access_token"`
	TokenType   string  `json:"token_type"`
	ExpiresIn   float64 `json:"expires_in"`
}

const maxLife = 24 * time.Hour

func read(a wire.Answer, err error, now time.Time) (secrets.Minted, error) {
	if err == nil {
		err = a.Good()
	}
	var g granted
	if err == nil {
		err = a.Decode(&g)
	}
	switch {
	case err != nil:
		return secrets.Minted{}, err
	case g.AccessToken == "", strings.ContainsAny(g.AccessToken, " \r\n"), g.TokenType != "" && !strings.EqualFold(g.TokenType, "bearer"):
		return secrets.Minted{}, wire.ErrAnswer.Say("the provider did not answer with a bearer token")
	}
	m := secrets.Minted{Value: secrets.NewValue([]byte(g.AccessToken))}
	if g.ExpiresIn > 0 {
		m.Expires = now.Add(min(time.Duration(g.ExpiresIn*float64(time.Second)), maxLife))
	}
	return m, nil
}
