package send

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"

	"github.com/countersign/countersign/internal/secrets"
)

// noticeWait is how long a service may take.
const noticeWait = 15 * time.Second

// Mail is the scheme of services that reach people by their addresses.
const Mail = "smtp"

// unwanted services are no ways to people: one sends anything anywhere, without
// a signature, the other writes into our own log.
var unwanted = []string{"generic", "logger"}

// CheckNotice says whether a secret is a shoutrrr URL of a service that can tell
// people something, and returns its scheme.
func CheckNotice(secret secrets.Value) (scheme string, err error) {
	u, err := url.Parse(string(secret.Expose()))
	if err != nil || u.Scheme == "" {
		return "", ErrSecret.Say("the secret is no service URL such as smtp://user:password@host:587/?from=a@b.example&to=c@d.example")
	}
	scheme, _, _ = strings.Cut(u.Scheme, "+")
	if slices.Contains(unwanted, scheme) {
		return "", ErrSecret.Say("a channel of this kind cannot be a %s service; use a webhook", scheme)
	}
	if _, err := router.New(nil, string(secret.Expose())); err != nil {
		return "", ErrSecret.Say("the secret is no URL that the notice service %.20q takes", scheme)
	}
	return scheme, nil
}

// Notice sends a text through a shoutrrr service (github.com/nicholas-fedor/shoutrrr).
// to, if not empty, are e-mail addresses in the place of those in the URL. What
// the service says is not passed on: it may quote its URL.
func Notice(ctx context.Context, secret secrets.Value, subject, text string, to []string) error {
	scheme, err := CheckNotice(secret)
	if err != nil {
		return err
	}
	r, err := router.New(nil, string(secret.Expose()))
	if err != nil {
		return ErrSecret
	}
	r.Timeout = noticeWait
	params := types.Params{}
	if scheme == Mail {
		params.SetTitle(subject)
		if len(to) > 0 {
			params["toaddresses"] = strings.Join(to, ",")
		}
	}
	select {
	case err, ok := <-r.SendAsync(text, &params):
		if !ok || err == nil {
			return nil
		}
		return ErrReach.Say("the %s service did not take the message", scheme)
	case <-ctx.Done():
		return ErrReach
	}
}
