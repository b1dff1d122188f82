package server

import (
	"context"
	"crypto/sha256"
	"regexp"
	"sync"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
)

// errBorrowed refuses a person's token that an upstream secret holds.
var errBorrowed = fault.New(fault.Denied, "borrowed_token",
	"this token is kept as the secret of a connection too, so whoever presents it may be an agent; sign in anew, and revoke this one")

// borrowed knows the tokens of people that are in upstream secrets. Calls of
// agents carry those: with one, an agent could decide about its own requests
// through a connection to this server, wherever that is reached.
type borrowed struct {
	mu  sync.RWMutex
	has map[[sha256.Size]byte]map[string]bool // digest of a token: names of secrets
}

func newBorrowed() *borrowed { return &borrowed{has: map[[sha256.Size]byte]map[string]bool{}} }

var tokenForm = regexp.MustCompile(identity.TokenPrefix + `[0-9A-Za-z]+`)

// Add implements secrets.Matcher.
func (b *borrowed) Add(name string, value []byte) {
	for _, token := range tokenForm.FindAll(value, -1) {
		if !identity.WellFormed(identity.TokenPrefix, string(token)) {
			continue
		}
		b.mu.Lock()
		sum := sha256.Sum256(token)
		if b.has[sum] == nil {
			b.has[sum] = map[string]bool{}
		}
		b.has[sum][name] = true
		b.mu.Unlock()
	}
}

// Remove implements secrets.Matcher.
func (b *borrowed) Remove(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for sum, names := range b.has {
		if delete(names, name); len(names) == 0 {
			delete(b.has, sum)
		}
	}
}

func (b *borrowed) holds(token string) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.has[sha256.Sum256([]byte(token))]) > 0
}

// person is who presents a token to the API: nobody, if agents' calls carry it.
func (h *house) person(ctx context.Context, token string) (rest.Caller, error) {
	c, err := h.identity.AuthenticateUser(ctx, token)
	if err == nil && h.borrowed.holds(token) {
		return rest.Caller{}, errBorrowed
	}
	return c, err
}
