package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/countersign/countersign/internal/dial"
	"github.com/countersign/countersign/internal/tokens"
)

// Limits of a fetch.
const (
	MaxBody = 256 << 10
	within  = 5 * time.Second
)

// Client fetches documents. It is safe for concurrent use.
type Client struct{}

// New returns a client.
func New() *Client { return &Client{} }

// Fetch implements tokens.Fetcher.
func (c *Client) Fetch(ctx context.Context, at string, f tokens.Fetch) ([]byte, error) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, errors.New("not an https URL")
	}
	transport, err := c.transport(f)
	if err != nil {
		return nil, err
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, errors.New("not a URL")
	}
	req.Header.Set("Accept", "application/json")
	resp, err := transport.RoundTrip(req)
	if errors.Is(err, dial.ErrAddress) {
		return nil, tokens.ErrAddress
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", u.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", u.Host, resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading from %s: %w", u.Host, err)
	case len(b) > MaxBody:
		return nil, fmt.Errorf("%s sent more than %d bytes", u.Host, MaxBody)
	}
	return b, nil
}

// transport is made for one fetch: fetches are rare, and a kept connection
// would outlive the decision on its address.
func (c *Client) transport(f tokens.Fetch) (*http.Transport, error) {
	roots, err := pool(f.CA)
	if err != nil {
		return nil, err
	}
	dialer := dial.Dialer{Private: f.Private, Within: within}
	return &http.Transport{
		Proxy: nil, DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout: within, ResponseHeaderTimeout: within, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true,
	}, nil
}

// pool returns the certificates to trust, nil for the system's.
func pool(pem []byte) (*x509.CertPool, error) {
	if len(pem) == 0 {
		return nil, nil
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no PEM certificate in the CA that was given")
	}
	return p, nil
}
