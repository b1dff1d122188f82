package vault

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/secrets"
	"github.com/countersign/countersign/internal/secrets/provider/wire"
)

// Errors of this package.
var (
	ErrRef   = fault.New(fault.Invalid, "bad_vault_reference", "the source must be vault://MOUNT/PATH#FIELD")
	ErrLogin = fault.New(fault.Unavailable, "vault_login", "the vault does not let us in")
	ErrRead  = fault.New(fault.Unavailable, "vault_read", "the secret cannot be read in the vault")
)

// Config says where the vault is and how to log in.
type Config struct {
	Address   string   // https://vault.example:8200
	Namespace string   // X-Vault-Namespace; empty: none
	Mounts    []string // KV version 2 mounts that may be read
	TokenFile string   // a file with a token, read at each login; or
	RoleID    string   // an approle, with
	SecretID  string   // a file with its secret ID
	Private   bool     // the address is a private one
	// Refresh is how long a value is used before it is read again; 0 means five
	// minutes.
	Refresh time.Duration
}

// Source finds values in a vault. It is safe for concurrent use.
type Source struct {
	c    Config
	now  func() time.Time
	mu   sync.Mutex // held while logging in
	held string     // a token from an approle
	ends time.Time
}

// New returns a Source; it logs in when it is first needed.
func New(c Config, now func() time.Time) *Source {
	if c.Refresh == 0 {
		c.Refresh = 5 * time.Minute
	}
	c.Address = strings.TrimRight(c.Address, "/")
	return &Source{c: c, now: now}
}

var segment = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._ -]{0,127}$`)

func parse(ref string) (mount string, at []string, field string, err error) {
	where, field, ok := strings.Cut(ref, "#")
	parts := strings.Split(where, "/")
	if !ok || len(parts) < 2 || !segment.MatchString(field) || len(ref) > 512 {
		return "", nil, "", ErrRef
	}
	for _, p := range parts {
		if !segment.MatchString(p) || strings.Contains(p, "..") {
			return "", nil, "", ErrRef
		}
	}
	return parts[0], parts[1:], field, nil
}

// Check implements secrets.Source.
func (s *Source) Check(ref string) error {
	mount, _, _, err := parse(ref)
	if err == nil && !slices.Contains(s.c.Mounts, mount) {
		return ErrRef.Say("source: the mount %s is not among those that this server may read (%s)", mount, strings.Join(s.c.Mounts, ", "))
	}
	return err
}

// Read implements secrets.Source.
func (s *Source) Read(ctx context.Context, ref string) (secrets.Value, time.Duration, error) {
	if err := s.Check(ref); err != nil {
		return secrets.Value{}, 0, err
	}
	mount, at, field, _ := parse(ref)
	for i, p := range at {
		at[i] = url.PathEscape(p)
	}
	to := s.c.Address + "/v1/" + url.PathEscape(mount) + "/data/" + path.Join(at...)
	a, err := s.get(ctx, to, false)
	if err == nil && a.Status == http.StatusForbidden && s.c.RoleID != "" { // the token may have been revoked
		a, err = s.get(ctx, to, true)
	}
	if err != nil {
		return secrets.Value{}, 0, err
	}
	v, err := value(a, field)
	return v, s.c.Refresh, err
}

func (s *Source) get(ctx context.Context, to string, afresh bool) (wire.Answer, error) {
	token, err := s.token(ctx, afresh)
	if err != nil {
		return wire.Answer{}, err
	}
	return wire.Client{Private: s.c.Private}.JSON(ctx, http.MethodGet, to, s.header(token), nil)
}

func (s *Source) header(token string) http.Header {
	h := http.Header{"X-Vault-Request": {"true"}}
	if token != "" {
		h.Set("X-Vault-Token", token)
	}
	if s.c.Namespace != "" {
		h.Set("X-Vault-Namespace", s.c.Namespace)
	}
	return h
}

func value(a wire.Answer, field string) (secrets.Value, error) {
	switch {
	case a.Status == http.StatusNotFound:
		return secrets.Value{}, ErrRead.Say("the vault has no such secret, or its current version was deleted")
	case a.Status == http.StatusForbidden:
		return secrets.Value{}, ErrRead.Say("the vault does not let this server read that path")
	case a.Good() != nil:
		return secrets.Value{}, ErrRead.Say("the vault answered with status %d", a.Status)
	}
	var doc struct {
		Data struct {
			Data map[string]jsontext.Value `json:"data"`
		} `json:"data"`
	}
	if err := json.Unmarshal(a.Body, &doc); err != nil {
		return secrets.Value{}, ErrRead.Say("the vault's answer could not be understood")
	}
	raw, ok := doc.Data.Data[field]
	var text string
	if !ok || json.Unmarshal(raw, &text) != nil || text == "" {
		return secrets.Value{}, ErrRead.Say("the secret in the vault has no text in the field %s", field)
	}
	return secrets.NewValue([]byte(text)), nil
}

// token returns what to present: the file's, or one that an approle gave, which
// is used for two thirds of its life.
func (s *Source) token(ctx context.Context, afresh bool) (string, error) {
	if s.c.RoleID == "" {
		return readFile(s.c.TokenFile)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !afresh && s.held != "" && s.now().Before(s.ends) {
		return s.held, nil
	}
	secretID, err := readFile(s.c.SecretID)
	if err != nil {
		return "", err
	}
	a, err := wire.Client{Private: s.c.Private}.JSON(ctx, http.MethodPost, s.c.Address+"/v1/auth/approle/login", s.header(""), map[string]string{"role_id": s.c.RoleID, "secret_id": secretID})
	if err != nil {
		return "", err
	}
	var doc struct {
		Auth struct {
			Token string `json:"client_token"`
			Lease int64  `json:"lease_duration"`
		} `json:"auth"`
	}
	if a.Good() != nil || json.Unmarshal(a.Body, &doc) != nil || doc.Auth.Token == "" {
		return "", ErrLogin.Say("the vault refused the approle with status %d", a.Status)
	}
	s.held, s.ends = doc.Auth.Token, s.now().Add(time.Duration(doc.Auth.Lease)*time.Second*2/3)
	return s.held, nil
}

func readFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil || len(b) > 4096 {
		return "", ErrLogin.Say("the file %s, with which to log in at the vault, cannot be read", path)
	}
	return strings.TrimSpace(string(b)), nil
}
