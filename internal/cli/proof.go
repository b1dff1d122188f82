package cli

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// kubernetesToken is where a projected service account token for Countersign
// is mounted (docs/identities.md). The pod's default token is never sent: it is
// good at the cluster's own API.
var kubernetesToken = "/var/run/secrets/countersign/token"

// The ways in which a program proves who it is, in the order in which they are
// looked for.
const (
	byToken      = "token"      // COUNTERSIGN_ID_TOKEN, COUNTERSIGN_ID_TOKEN_FILE
	byGitHub     = "github"     // ACTIONS_ID_TOKEN_REQUEST_URL
	byKubernetes = "kubernetes" // a projected token
	bySPIFFE     = "spiffe"     // SPIFFE_ENDPOINT_SOCKET
	byPerson     = "person"     // your own token
	byEnrolment  = "enrolment"  // a key of this machine that a person approved
)

var identities = []string{"auto", byToken, byGitHub, byKubernetes, bySPIFFE, byPerson, byEnrolment}

// proofAt says which proof the environment offers, "" if none.
func proofAt() string {
	switch {
	case os.Getenv("COUNTERSIGN_ID_TOKEN") != "", os.Getenv("COUNTERSIGN_ID_TOKEN_FILE") != "":
		return byToken
	case os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL") != "" && os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN") != "":
		return byGitHub
	}
	if _, err := os.Stat(kubernetesToken); err == nil {
		return byKubernetes
	}
	if os.Getenv("SPIFFE_ENDPOINT_SOCKET") != "" {
		return bySPIFFE
	}
	return ""
}

// proof gets a token for audience from where how says.
func proof(ctx context.Context, how, audience string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	switch how {
	case byToken:
		if t := os.Getenv("COUNTERSIGN_ID_TOKEN"); t != "" {
			return strings.TrimSpace(t), nil
		}
		return tokenFile(os.Getenv("COUNTERSIGN_ID_TOKEN_FILE"))
	case byGitHub:
		return githubToken(ctx, audience)
	case byKubernetes:
		return tokenFile(kubernetesToken)
	case bySPIFFE:
		svid, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
		if err != nil {
			return "", fmt.Errorf("the SPIFFE Workload API at %s gave no JWT-SVID: %w", os.Getenv("SPIFFE_ENDPOINT_SOCKET"), err)
		}
		return svid.Marshal(), nil
	}
	return "", fmt.Errorf("--identity %s: there is no such way", how)
}

func tokenFile(file string) (string, error) {
	if file == "" {
		return "", errors.New("no token was found: set COUNTERSIGN_ID_TOKEN or COUNTERSIGN_ID_TOKEN_FILE")
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("cannot read the identity token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return "", fmt.Errorf("cannot read the identity token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// githubToken asks GitHub Actions for a token for this job (the workflow needs
// "permissions: id-token: write").
func githubToken(ctx context.Context, audience string) (string, error) {
	u, err := url.Parse(os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"))
	if err != nil || u.Host == "" {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not set: give the workflow the permission id-token: write")
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
	resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		return "", fmt.Errorf("GitHub gave no token: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	var out struct {
		Value string `json:"value"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(b, &out) != nil || out.Value == "" {
		return "", fmt.Errorf("GitHub gave no token: it answered %s", resp.Status)
	}
	return out.Value, nil
}
