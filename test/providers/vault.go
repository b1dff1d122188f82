package providers

import (
	"encoding/json/v2"
	"fmt"
	"net/http"
	"sync"
	"testing"
)

// Vault is the part of Vault's and OpenBao's API that reads KV version 2, with
// tokens, approles and namespaces.
type Vault struct {
	URL string

	mu     sync.Mutex
	tokens map[string]bool
	logins int
	values map[string]map[string]any // namespace + " " + mount/path
	role   [2]string
}

// StartVault starts one that knows a token and an approle.
func StartVault(tb testing.TB, token, roleID, secretID string) *Vault {
	v := &Vault{tokens: map[string]bool{token: true}, values: map[string]map[string]any{}, role: [2]string{roleID, secretID}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/{mount}/data/{path...}", v.read)
	mux.HandleFunc("POST /v1/auth/approle/login", v.login)
	v.URL = start(tb, mux)
	return v
}

// Put stores the fields of a secret.
func (v *Vault) Put(namespace, mount, path string, fields map[string]any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[namespace+" "+mount+"/"+path] = fields
}

// Revoke makes every token invalid.
func (v *Vault) Revoke() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.tokens)
}

// Logins returns how often an approle logged in.
func (v *Vault) Logins() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logins
}

func (v *Vault) read(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.tokens[r.Header.Get("X-Vault-Token")] {
		http.Error(w, `{"errors": ["permission denied"]}`, http.StatusForbidden)
		return
	}
	fields, ok := v.values[r.Header.Get("X-Vault-Namespace")+" "+r.PathValue("mount")+"/"+r.PathValue("path")]
	if !ok {
		http.Error(w, `{"errors": []}`, http.StatusNotFound)
		return
	}
	answer := map[string]any{"request_id": "x", "lease_id": "", "renewable": false, "lease_duration": 0,
		"data": map[string]any{"data": fields, "metadata": map[string]any{"version": 1, "destroyed": false, "deletion_time": ""}}}
	_ = json.MarshalWrite(w, answer)
}

func (v *Vault) login(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Role   string `json:"role_id"`
		Secret string `json:"secret_id"`
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if json.UnmarshalRead(r.Body, &in) != nil || in.Role != v.role[0] || in.Secret != v.role[1] {
		http.Error(w, `{"errors": ["invalid role or secret ID"]}`, http.StatusBadRequest)
		return
	}
	v.logins++
	token := fmt.Sprintf("hvs.token-%d", v.logins)
	v.tokens[token] = true
	fmt.Fprintf(w, `{"auth": {"client_token": %q, "lease_duration": 3600, "renewable": true}}`, token)
}
