package tokens_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/internal/tokens"
	"github.com/countersign/countersign/internal/tokens/remote"
)

// A rule may say where an issuer's keys are: then nothing else is asked, and
// they are followed as they change.
func TestARulesKeysAtAURL(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		const name = "https://ci.example" // has no server
		i, other := newIssuer(t), newIssuer(t)
		w.rule(i, func(r *tokens.Rule) { r.Issuer, r.JWKSURL = name, i.URL+"/keys" })
		ask := func(by *issuer, kid string) reply {
			return w.token(w.bearer(by.sign(kid, w.github(i, m{"iss": name})), "", "/mcp/ledger"))
		}
		w.accepts("a job", ask(i, "one").Access)
		w.fails("a key of another's", w.bearer(other.sign("one", w.github(i, m{"iss": name})), "", "/mcp/ledger"), 400, "invalid_grant")
		w.fails("what the keys' own server calls itself", w.bearer(i.sign("one", w.github(i, nil)), "", "/mcp/ledger"), 400, "invalid_grant")
		i.add("two")
		w.clock.pass(time.Minute)
		w.accepts("a job, by a new key", ask(i, "two").Access)
		i.mu.Lock()
		delete(i.keys, "one")
		gone := newPair(t, "one") // has the kid of what is gone
		i.mu.Unlock()
		w.clock.pass(time.Hour)
		w.fails("a key that is gone", w.bearer(sign(t, jose.ES256, gone.private, map[string]string{"kid": "one"}, w.github(i, m{"iss": name})), "", "/mcp/ledger"), 400, "invalid_grant")
		w.accepts("a job, by the key that stays", ask(i, "two").Access)
		if n := other.fetches.Load(); n != 0 {
			t.Errorf("somebody else's keys were fetched %d times", n)
		}
	})
}

// near fetches from one server on this machine, which remote refuses unless it
// is told otherwise, as it is for a client key's URL.
type near struct {
	base string
	ca   []byte
}

func (n near) Fetch(ctx context.Context, at string, f tokens.Fetch) ([]byte, error) {
	if strings.HasPrefix(at, n.base) {
		f = tokens.Fetch{Private: true, CA: n.ca}
	}
	return remote.New().Fetch(ctx, at, f)
}

// An agent's keys may be at a URL: it rotates them without asking anybody, and
// is out when the URL is taken back.
func TestAnAgentsKeysAtAURL(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		i, other := newIssuer(t), newIssuer(t)
		w := open(t, db, func(o *tokens.Options) { o.Fetcher = near{i.URL, []byte(i.ca())} })
		k, err := w.AddClientKey(ctx, w.ada, "its own keys", "bot", tokens.ClientKeySpec{JWKSURL: i.URL + "/keys"})
		must(t, err)
		must(t, func() error {
			_, err := w.AddClientKey(ctx, w.bob, "its own keys", "helper", tokens.ClientKeySpec{JWKSURL: other.URL + "/keys"})
			return err
		}())
		proof := func(by *issuer, kid, agent string) string { return by.sign(kid, w.claims(agent, nil)) }
		first := w.token(w.credentials(proof(i, "one", "bot"), "/mcp/ledger")).Access
		w.accepts("its key", first)
		w.fails("another's key", w.credentials(proof(other, "one", "bot"), "/mcp/ledger"), 401, "invalid_client")
		w.fails("an agent whose keys are on a private address", w.credentials(proof(other, "one", "helper"), "/mcp/ledger"), 401, "invalid_client")
		w.fails("an agent with other keys", w.credentials(proof(i, "one", "helper"), "/mcp/ledger"), 401, "invalid_client")
		if n := other.fetches.Load(); n != 0 {
			t.Errorf("a private address was asked %d times", n)
		}
		i.add("two")
		w.clock.pass(time.Minute)
		w.accepts("its new key", w.token(w.credentials(proof(i, "two", "bot"), "/mcp/ledger")).Access)
		must(t, w.RevokeClientKey(ctx, w.ada, "the machine is gone", "bot", k.ID))
		w.refuses("what was had by it", first, identity.ErrRevoked)
		w.fails("afterwards", w.credentials(proof(i, "two", "bot"), "/mcp/ledger"), 401, "invalid_client")
		if ev := w.events("agent.client_key_added", 2)[0]; ev.Actor.Kind != audit.KindUser || !strings.Contains(string(ev.Detail), i.URL) {
			t.Errorf("%+v %s", ev, ev.Detail)
		}
	})
}
