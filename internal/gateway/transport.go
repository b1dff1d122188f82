package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/dial"
)

// Limits on the way to an upstream.
const (
	dialTimeout    = 10 * time.Second
	maxAnswerHead  = 256 << 10
	idleConns      = 256
	idleConnExpiry = 90 * time.Second
)

// transports holds one HTTP transport per connection, made on first use and
// replaced when the connection changes.
type transports struct {
	headerTimeout time.Duration
	stdio         Transport
	retrieval     Transport

	mu   sync.RWMutex
	open map[string]*upstream // by the connection's name
}

type upstream struct {
	key  upstreamKey
	base requestBase
	http *http.Transport
}

// upstreamKey is what of a connection its transport depends on.
type upstreamKey struct {
	url     string
	private bool
	timeout time.Duration
}

func newTransports(headerTimeout time.Duration) *transports {
	return &transports{headerTimeout: headerTimeout, open: map[string]*upstream{}}
}

func (t *transports) of(c connections.Connection) (*upstream, error) {
	key := upstreamKey{c.URL, c.AllowPrivate, c.Timeout}
	t.mu.RLock()
	up := t.open[c.Name]
	t.mu.RUnlock()
	if up != nil && up.key == key {
		return up, nil
	}
	fresh, err := t.make(key)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	up = t.open[c.Name]
	if up != nil && up.key == key {
		return up, nil
	}
	if up != nil {
		up.http.CloseIdleConnections() // those in use close when they fall idle
	}
	t.open[c.Name] = fresh
	return fresh, nil
}

func parseBase(raw string) (requestBase, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return requestBase{}, ErrURL.With(err)
	}
	return requestBase{*u}, nil
}

func (t *transports) make(key upstreamKey) (*upstream, error) {
	u, err := url.Parse(key.url)
	switch {
	case err != nil:
		return nil, ErrURL.With(err)
	case u.Scheme != "https" && (u.Scheme != "http" || !key.private), u.Host == "", u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, ErrURL
	}
	timeout := key.timeout
	if timeout <= 0 {
		timeout = t.headerTimeout
	}
	return &upstream{key: key, base: requestBase{*u}, http: &http.Transport{
		Proxy:                  nil, // an environment variable must not reroute calls
		DialContext:            guarded(key.private),
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConns:           idleConns,
		MaxIdleConnsPerHost:    idleConns,
		IdleConnTimeout:        idleConnExpiry,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: maxAnswerHead,
	}}, nil
}

func (t *transports) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, up := range t.open {
		up.http.CloseIdleConnections()
	}
	clear(t.open)
}

// requestBase is a connection's URL, to which a call's path is joined.
type requestBase struct{ u url.URL }

// own returns what carries calls to connections that are not reached by HTTP
// alone, nil if there is nothing here that does.
func (t *transports) own(c connections.Connection) (carrier Transport, base requestBase, own bool) {
	switch {
	case len(c.Command) > 0:
		return t.stdio, stdioBase, true
	case c.Kind == connections.Retrieval:
		return t.retrieval, retrievalBase, true
	}
	return nil, requestBase{}, false
}

var retrievalBase = requestBase{url.URL{Scheme: "retrieval", Host: "localhost"}}

var stdioBase = requestBase{url.URL{Scheme: "stdio", Host: "localhost"}}

// join returns the URL of path, which is escaped, beneath the base. A path that
// would leave the base, or that two readers could read in two ways, is refused.
func (b requestBase) join(path, query string) (*url.URL, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	plain, err := url.PathUnescape(path)
	if err != nil {
		return nil, ErrPath.With(err)
	}
	u := b.u
	base := strings.TrimRight(u.Path, "/")
	rawBase := strings.TrimRight(b.u.EscapedPath(), "/")
	u.Path, u.RawPath, u.RawQuery = base+plain, rawBase+path, query
	return &u, nil
}

// CheckPath refuses an escaped path with empty, dot, encoded-dot or
// encoded-slash segments, backslashes or control characters.
func CheckPath(path string) error {
	if path == "" {
		return nil
	}
	if path[0] != '/' || strings.Contains(path, "//") || strings.ContainsAny(path, "\\?#") {
		return ErrPath
	}
	plain, err := url.PathUnescape(path)
	if err != nil {
		return ErrPath
	}
	if strings.Count(plain, "/") != strings.Count(path, "/") || strings.ContainsAny(plain, "\\%") {
		return ErrPath
	}
	for i := range len(plain) {
		if plain[i] < 0x20 || plain[i] == 0x7f {
			return ErrPath
		}
	}
	for segment := range strings.SplitSeq(plain, "/") {
		if segment == "." || segment == ".." {
			return ErrPath
		}
	}
	return nil
}

// guarded dials what dial.Dialer allows.
func guarded(private bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := dial.Dialer{Private: private, Within: dialTimeout}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, addr)
		if errors.Is(err, dial.ErrAddress) {
			return nil, ErrAddress
		}
		return conn, err
	}
}
