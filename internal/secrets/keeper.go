package secrets

import (
	"context"
	"net/url"
	"strings"

	gocloud "gocloud.dev/secrets"
	"gocloud.dev/secrets/localsecrets"
)

// Keeper seals the keyset. Its own key is outside the database.
type Keeper interface {
	Seal(ctx context.Context, plain []byte) ([]byte, error)
	Open(ctx context.Context, sealed []byte) ([]byte, error)
	Close() error
}

// OpenKeeper opens the keeper that at names: the path of a key file (also
// file:PATH), which is made with mode 0600 if it does not exist, or a
// gocloud.dev/secrets URL. This build knows base64key://KEY, where KEY is 32
// bytes in URL-safe base64. Errors never hold the URL: it may hold the key.
func OpenKeeper(ctx context.Context, at string) (Keeper, error) {
	scheme, rest, isURL := strings.Cut(at, "://")
	switch {
	case at == "":
		return nil, ErrKeeper
	case !isURL:
		return openKeyFile(strings.TrimPrefix(at, "file:"))
	case scheme == "file":
		u, err := url.Parse(at)
		if err != nil || u.Host != "" || u.Path == "" {
			return nil, ErrKeeper.Say("a key file's URL is file:///absolute/path")
		}
		return openKeyFile(u.Path)
	case scheme == localsecrets.Scheme && rest == "":
		// The driver would make up a key and forget it at the next start.
		return nil, ErrKeeper.Say("base64key:// needs a key: 32 bytes in URL-safe base64")
	}
	if !gocloud.DefaultURLMux().ValidKeeperScheme(scheme) {
		return nil, ErrKeeper.Say("this build knows no keys of the kind %.20q", scheme)
	}
	k, err := gocloud.OpenKeeper(ctx, at)
	if err != nil {
		return nil, ErrKeeper.Say("the %s key cannot be opened; check its URL", scheme)
	}
	return service{k}, nil
}

// service is a gocloud keeper: a key management service, or a key in a URL.
type service struct{ k *gocloud.Keeper }

func (s service) Seal(ctx context.Context, plain []byte) ([]byte, error) {
	return s.k.Encrypt(ctx, plain)
}

func (s service) Open(ctx context.Context, sealed []byte) ([]byte, error) {
	return s.k.Decrypt(ctx, sealed)
}

func (s service) Close() error { return s.k.Close() }
