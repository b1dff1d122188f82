package send

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
)

// Slack calls a method of Slack's Web API (api.slack.com/methods) at base with
// a bot token, and returns the message's timestamp, which names it.
func Slack(ctx context.Context, base, method string, private bool, token secrets.Value, message any) (ts string, err error) {
	header := http.Header{"Authorization": {"Bearer " + string(token.Expose())}}
	a, err := wire.Client{Private: private}.JSON(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/"+method, header, message)
	if err := good(a, err); err != nil {
		return "", err
	}
	var said struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
		TS    string `json:"ts"`
	}
	if json.Unmarshal(a.Body, &said) != nil {
		return "", ErrRefused.Say("Slack's answer could not be understood")
	}
	if !said.OK {
		return "", ErrRefused.Say("Slack refused: %s", code(said.Error))
	}
	return said.TS, nil
}

// Reply answers an interaction at the URL that Slack sent with it.
func Reply(ctx context.Context, to string, private bool, message any) error {
	return good(wire.Client{Private: private}.JSON(ctx, http.MethodPost, to, nil, message))
}

// code keeps what has the form of one of Slack's error codes.
func code(s string) string {
	if s == "" || len(s) > 60 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return "without a reason"
	}
	return s
}

// SlackWindow is how old a request from Slack may be, or how far ahead.
const SlackWindow = 5 * time.Minute

// SlackSigned reports whether a request is from Slack (api.slack.com,
// "Verifying requests from Slack"): signature is v0= and the hex HMAC-SHA-256,
// by the signing secret, of "v0:", the timestamp, ":" and the body, and the
// timestamp is not older than SlackWindow.
func SlackSigned(secret secrets.Value, timestamp, signature string, body []byte, now time.Time) bool {
	n, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil || now.Sub(time.Unix(n, 0)).Abs() > SlackWindow {
		return false
	}
	given, ok := strings.CutPrefix(signature, "v0=")
	sum, err := hex.DecodeString(given)
	if !ok || err != nil {
		return false
	}
	mac := hmac.New(sha256.New, secret.Expose())
	fmt.Fprintf(mac, "v0:%s:%s", timestamp, body)
	return hmac.Equal(sum, mac.Sum(nil))
}
