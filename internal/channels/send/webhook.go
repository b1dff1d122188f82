package send

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
)

// Errors of this package. They hold nothing of what a receiver said.
var (
	ErrRefused = fault.New(fault.Upstream, "channel_refused", "the channel refused the message")
	ErrReach   = fault.New(fault.Upstream, "channel_unreachable", "the channel cannot be reached, or did not answer in time")
	ErrSecret  = fault.New(fault.Invalid, "channel_secret", "the channel's secret does not have the form that its kind needs")
)

// Webhook posts body, signed as Standard Webhooks 1.0 says (standardwebhooks.com):
// webhook-signature is "v1," and the base64 HMAC-SHA-256, by the secret's bytes
// (of one that begins with whsec_, by what it is the base64 of), of the message's
// id, a dot, the time in seconds since 1970, a dot, and the body. id is the same
// in every attempt, so a receiver that keeps ids for as long as it accepts times
// cannot be made to act twice.
func Webhook(ctx context.Context, to string, private bool, secret secrets.Value, id string, at time.Time, body []byte) error {
	key := secret.Expose()
	if encoded, ok := strings.CutPrefix(string(key), "whsec_"); ok {
		var err error
		if key, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return ErrSecret.Say("the secret begins with whsec_, but the rest is not base64")
		}
	}
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
	header := http.Header{"Content-Type": {"application/json"}, "Webhook-Id": {id}, "Webhook-Timestamp": {stamp},
		"Webhook-Signature": {"v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))}}
	return good(wire.Client{Private: private}.Do(ctx, http.MethodPost, to, header, body))
}

func good(a wire.Answer, err error) error {
	switch {
	case err != nil:
		return ErrReach.Say("%s", fault.Public(err).Message)
	case a.Status < 200 || a.Status > 299:
		return ErrRefused.Say("the channel answered with status %d", a.Status)
	}
	return nil
}
