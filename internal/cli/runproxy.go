package cli

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/countersign/countersign/client"
)

// proxyNames are the variables by which programs find a proxy, and those by
// which they trust the certificates of one. A person's own must not stay beside
// ours: what goes through another proxy goes around the line.
var proxyNames = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"}

var rootNames = []string{
	"SSL_CERT_FILE",       // Go, OpenSSL, Python's ssl
	"REQUESTS_CA_BUNDLE",  // Python requests
	"CURL_CA_BUNDLE",      // curl
	"GIT_SSL_CAINFO",      // git
	"NODE_EXTRA_CA_CERTS", // Node
}

// proxyEnvironment makes programs that know nothing of Countersign call through
// its proxy. The returned function removes the certificate that they trust.
func proxyEnvironment(ctx context.Context, c *client.Client, env []string, token string) ([]string, func(), error) {
	root, err := c.ProxyRoot(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate of the proxy could not be had (--no-proxy runs without it): %w", err)
	}
	u, err := url.Parse(c.URL())
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "countersign-run-")
	if err != nil {
		return nil, nil, err
	}
	clean := func() { _ = os.RemoveAll(dir) }
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, root, 0o600); err != nil {
		clean()
		return nil, nil, err
	}
	kept := env[:0]
	for _, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); !contains(proxyNames, name) && !contains(rootNames, name) {
			kept = append(kept, kv)
		}
	}
	direct := u.Hostname() // the doors with base URLs are there
	u.User, u.Path = url.UserPassword("agent", token), ""
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		kept = append(kept, name+"="+u.String())
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		kept = append(kept, name+"="+direct)
	}
	for _, name := range rootNames {
		kept = append(kept, name+"="+file)
	}
	return append(kept, "NODE_USE_ENV_PROXY=1"), clean, nil // Node from 24
}
