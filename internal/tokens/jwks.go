package tokens

import (
	"context"
	"encoding/json/v2"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// How often keys are fetched.
const (
	keysFresh   = 10 * time.Minute // after which they are fetched again when needed
	keysUsable  = time.Hour        // for which they are used when that fails
	fetchAgain  = 30 * time.Second // at the earliest, whatever is asked: a flood here is no flood there
	maxSources  = 1024
	maxSetKeys  = 128
	fetchWithin = 10 * time.Second
)

// keySource says where keys come from.
type keySource struct {
	issuer  string // for discovery, if url is empty
	url     string // of the JWKS
	private bool
	ca      string
}

// keySources keeps the keys of issuers outside.
type keySources struct {
	fetcher Fetcher
	now     func() time.Time
	mu      sync.Mutex
	known   map[keySource]*keySet
}

// keySet is the keys of one source.
type keySet struct {
	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time     // when keys were
	tried   time.Time     // when that was last tried
	err     error         // of the last try
	busy    chan struct{} // closed when the fetch under way ends; nil if none is
}

func newKeySources(f Fetcher, now func() time.Time) *keySources {
	return &keySources{fetcher: f, now: now, known: map[keySource]*keySet{}}
}

// find returns the key of a source with an id, or its only one when the token
// names none. Keys are fetched when they are old or the id is unknown, by one
// request for everybody who waits, and at most every fetchAgain.
func (ks *keySources) find(ctx context.Context, src keySource, kid string) (jose.JSONWebKey, error) {
	set, err := ks.of(src)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	for {
		set.mu.Lock()
		now := ks.now()
		k, ok := choose(set.keys, kid)
		age := now.Sub(set.fetched)
		switch {
		case ok && age < keysFresh:
			set.mu.Unlock()
			return k, nil
		case set.busy != nil:
			busy := set.busy
			set.mu.Unlock()
			if ok && age < keysUsable {
				return k, nil // known already: nobody waits for the refresh
			}
			select {
			case <-busy:
				continue
			case <-ctx.Done():
				return jose.JSONWebKey{}, ErrKeys.With(ctx.Err())
			}
		case now.Sub(set.tried) >= fetchAgain:
			set.tried, set.busy = now, make(chan struct{})
			set.mu.Unlock()
			ks.refresh(ctx, src, set)
			continue
		}
		err := set.err
		set.mu.Unlock()
		switch {
		case ok && age < keysUsable:
			return k, nil
		case err != nil:
			return jose.JSONWebKey{}, ErrKeys.With(err)
		}
		return jose.JSONWebKey{}, ErrUnknownKey
	}
}

func (ks *keySources) of(src keySource) (*keySet, error) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	set := ks.known[src]
	if set == nil {
		if len(ks.known) >= maxSources {
			clear(ks.known) // sources are named by administrators; this many are old ones
		}
		set = &keySet{}
		ks.known[src] = set
	}
	return set, nil
}

// refresh fetches keys. It does not end with the request that began it, since
// others wait for it.
func (ks *keySources) refresh(ctx context.Context, src keySource, set *keySet) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWithin)
	defer cancel()
	keys, err := ks.fetch(ctx, src)
	set.mu.Lock()
	defer set.mu.Unlock()
	if set.err = err; err == nil {
		set.keys, set.fetched = keys, ks.now()
	}
	close(set.busy)
	set.busy = nil
}

func (ks *keySources) fetch(ctx context.Context, src keySource) ([]jose.JSONWebKey, error) {
	f := Fetch{Private: src.private, CA: []byte(src.ca)}
	at := src.url
	if at == "" {
		b, err := ks.fetcher.Fetch(ctx, strings.TrimRight(src.issuer, "/")+"/.well-known/openid-configuration", f)
		if err != nil {
			return nil, err
		}
		var doc struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			return nil, errors.New("the issuer's configuration is no JSON document")
		}
		// OpenID Connect Discovery section 4.3: another issuer's keys are not its own.
		if doc.Issuer != src.issuer {
			return nil, errors.New("the configuration is that of another issuer")
		}
		if err := checkURL("jwks_uri", doc.JWKS); err != nil {
			return nil, err
		}
		at = doc.JWKS
	}
	b, err := ks.fetcher.Fetch(ctx, at, f)
	if err != nil {
		return nil, err
	}
	return parseSet(b)
}

// parseSet reads a JWKS (RFC 7517) or the keys for JWT-SVIDs of a SPIFFE trust
// bundle. Keys that cannot verify are passed over.
func parseSet(b []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil || len(set.Keys) > maxSetKeys {
		return nil, errors.New("this is no JWKS of at most 128 keys")
	}
	var keys []jose.JSONWebKey
	for _, m := range set.Keys {
		use, _ := m["use"].(string)
		if use != "" && use != "sig" && use != "jwt-svid" {
			continue
		}
		delete(m, "use")
		raw, err := json.Marshal(m)
		if err != nil {
			continue
		}
		if k, _, err := publicKey(raw); err == nil {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it that could verify a token")
	}
	return keys, nil
}

func choose(keys []jose.JSONWebKey, kid string) (jose.JSONWebKey, bool) {
	if kid == "" {
		if len(keys) == 1 {
			return keys[0], true
		}
		return jose.JSONWebKey{}, false
	}
	for _, k := range keys {
		if k.KeyID == kid {
			return k, true
		}
	}
	return jose.JSONWebKey{}, false
}
