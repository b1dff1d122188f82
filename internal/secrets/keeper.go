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

// openKeeper opens the keeper that at names, as OpenKeys says.
func openKeeper(ctx context.Context, at string) (Keeper, error) {
	scheme, rest, _ := strings.Cut(at, "://")
	switch path, err := keyFilePath(at); {
	case err != nil:
		return nil, err
	case path != "":
		return openKeyFile(path)
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

// keyFilePath returns the path of the key file that at names, and nothing if it
// names a key of another kind.
func keyFilePath(at string) (string, error) {
	scheme, _, isURL := strings.Cut(at, "://")
	switch {
	case at == "":
		return "", ErrKeeper
	case !isURL:
		return strings.TrimPrefix(at, "file:"), nil
	case scheme != "file":
		return "", nil
	}
	u, err := url.Parse(at)
	if err != nil || u.Host != "" || u.Path == "" {
		return "", ErrKeeper.Say("a key file's URL is file:///absolute/path")
	}
	return u.Path, nil
}
