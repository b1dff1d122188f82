package providers

import (
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// OpenAI is the part of OpenAI's API that concerns service accounts and their keys.
type OpenAI struct {
	Fault
	URL string

	mu       sync.Mutex
	admin    string
	next     int
	accounts []serviceAccount
}

type serviceAccount struct{ id, name, key string }

// StartOpenAI starts one whose Admin API key is admin.
func StartOpenAI(tb testing.TB, admin string) *OpenAI {
	o := &OpenAI{admin: admin}
	mux := http.NewServeMux()
	at := "/v1/organization/projects/proj_1/service_accounts"
	mux.HandleFunc("POST "+at, o.asAdmin(o.create))
	mux.HandleFunc("GET "+at, o.asAdmin(o.list))
	mux.HandleFunc("DELETE "+at+"/{id}", o.asAdmin(o.remove))
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, r *http.Request) {
		if !o.Accepts(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			http.Error(w, `{"error": {"message": "Incorrect API key provided"}}`, http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"object": "list", "data": []}`)
	})
	o.URL = start(tb, o.wrap(mux)) + "/v1"
	return o
}

// Accepts reports whether a key works.
func (o *OpenAI) Accepts(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.accounts {
		if a.key == key {
			return true
		}
	}
	return false
}

// Alive returns how many keys work.
func (o *OpenAI) Alive() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.accounts)
}

func (o *OpenAI) asAdmin(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+o.admin {
			http.Error(w, `{"error": {"message": "invalid admin key"}}`, http.StatusUnauthorized)
			return
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		h(w, r)
	}
}

func (o *OpenAI) create(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name string `json:"name"`
	}
	if json.UnmarshalRead(r.Body, &in, json.RejectUnknownMembers(true)) != nil || in.Name == "" {
		http.Error(w, `{"error": {"message": "name is required"}}`, http.StatusBadRequest)
		return
	}
	o.next++
	a := serviceAccount{fmt.Sprintf("svc_acct_%d", o.next), in.Name, fmt.Sprintf("sk-svcacct-%04d-k2j4h6k8", o.next)}
	o.accounts = append(o.accounts, a)
	fmt.Fprintf(w, `{"object": "organization.project.service_account", "id": %q, "name": %q, "role": "member", "created_at": %d,
		"api_key": {"object": "organization.project.service_account.api_key", "value": %q, "name": "Secret Key", "created_at": 1, "id": "key_%d"}}`,
		a.id, a.name, time.Now().Unix(), a.key, o.next)
}

func (o *OpenAI) list(w http.ResponseWriter, r *http.Request) {
	const page = 2 // small, so that there are several
	from := 0
	for i, a := range o.accounts {
		if a.id == r.URL.Query().Get("after") {
			from = i + 1
		}
	}
	to := min(from+page, len(o.accounts))
	var rows []string
	last := ""
	for _, a := range o.accounts[from:to] {
		rows = append(rows, fmt.Sprintf(`{"object": "organization.project.service_account", "id": %q, "name": %q, "role": "member", "created_at": 1}`, a.id, a.name))
		last = a.id
	}
	fmt.Fprintf(w, `{"object": "list", "data": [%s], "first_id": "", "last_id": %q, "has_more": %v}`, strings.Join(rows, ","), last, to < len(o.accounts))
}

func (o *OpenAI) remove(w http.ResponseWriter, r *http.Request) {
	for i, a := range o.accounts {
		if a.id == r.PathValue("id") {
			o.accounts = append(o.accounts[:i:i], o.accounts[i+1:]...)
			fmt.Fprintf(w, `{"object": "organization.project.service_account.deleted", "id": %q, "deleted": true}`, a.id)
			return
		}
	}
	http.Error(w, `{"error": {"message": "no such service account"}}`, http.StatusNotFound)
}
