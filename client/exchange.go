package client

import (
	"context"
	"encoding/base64"
	"encoding/json/v2"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// SubjectIDToken is the type of a subject that is a user's token of an issuer
// outside.
const SubjectIDToken = "urn:ietf:params:oauth:token-type:id_token"

const accessTokenType = "urn:ietf:params:oauth:token-type:access_token"

// Exchange asks for a token with which an agent acts on behalf of whoever the
// subject is (RFC 8693), for no more and for no longer.
type Exchange struct {
	Subject     string    // token of an agent, of a user, or of an issuer outside; empty: the client's own
	SubjectType string    // SubjectIDToken for one of an issuer outside
	Agent       string    // that acts, for a user who answers for it
	Key         *AgentKey // or its proof
	Actor       string    // or a token of its own
	Scope       string
	Resources   []string      // URLs such as https://host/mcp/ledger
	Run         bool          // for a user's program: a token for a run of its own
	Life        time.Duration // of the run
}

// Exchanged is what an exchange gave. Chain is who acts for whom, the first
// principal first ("user:olga", "agent:bot").
type Exchanged struct {
	ID        string    `json:"id"`
	Token     string    `json:"token"`
	Chain     []string  `json:"chain"`
	Audience  []string  `json:"audience"`
	Scope     string    `json:"scope"`
	Expires   time.Time `json:"expires"`
	Run       string    `json:"run,omitzero"`
	Doors     []Door    `json:"connections,omitzero"`
	AgentName string    `json:"agent"`
}

// Exchange exchanges a token.
func (c *Client) Exchange(ctx context.Context, x Exchange) (Exchanged, error) {
	q := url.Values{}
	if x.Key != nil {
		var err error
		if q, err = x.Key.assertion(); err != nil {
			return Exchanged{}, err
		}
	} else if x.Agent != "" {
		q.Set("client_id", x.Agent)
	}
	q.Set("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
	q.Set("subject_token", x.Subject)
	q.Set("subject_token_type", accessTokenType)
	if x.Subject == "" {
		q.Set("subject_token", c.token)
	}
	if x.SubjectType != "" {
		q.Set("subject_token_type", x.SubjectType)
	}
	q["resource"] = x.Resources
	if x.Actor != "" {
		q.Set("actor_token", x.Actor)
		q.Set("actor_token_type", accessTokenType)
	}
	if x.Scope != "" {
		q.Set("scope", x.Scope)
	}
	if x.Run {
		q.Set("requested_token_type", runType)
		q.Set("countersign_life", strconv.Itoa(int(x.Life/time.Second)))
	}
	var a struct {
		Token string `json:"access_token"`
		Scope string `json:"scope"`
		Agent string `json:"countersign_agent"`
		Run   string `json:"countersign_run"`
		Doors []Door `json:"countersign_connections"`
	}
	if err := c.oauth(ctx, "/oauth2/token", q, &a); err != nil {
		return Exchanged{}, err
	}
	out := Exchanged{Token: a.Token, Scope: a.Scope, Run: a.Run, Doors: a.Doors, AgentName: a.Agent}
	return out, out.read()
}

// act is who acts (RFC 8693 section 4.1), the outermost first.
type act struct {
	Subject string `json:"sub"`
	Act     *act   `json:"act,omitzero"`
}

// read reads what the token itself says. It came from the server just now, so
// nothing of it is verified.
func (x *Exchanged) read() error {
	var claims struct {
		Subject  string   `json:"sub"`
		Audience []string `json:"aud"`
		Expires  int64    `json:"exp"`
		Token    string   `json:"jti"`
		Act      *act     `json:"act,omitzero"`
	}
	parts := strings.Split(x.Token, ".")
	b, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
	if err == nil {
		err = json.Unmarshal(b, &claims)
	}
	if err != nil {
		return err
	}
	var chain []string
	for a := claims.Act; a != nil; a = a.Act {
		chain = append([]string{a.Subject}, chain...)
	}
	x.ID, x.Chain, x.Audience, x.Expires = claims.Token, append([]string{claims.Subject}, chain...), claims.Audience, time.Unix(claims.Expires, 0).UTC()
	return nil
}
