package cli

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/countersign/countersign/client"
)

// proxyNames are the variables by which programs find a proxy. A person's own
// must not stay beside ours: what goes through another proxy goes around the line.
var proxyNames = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"}

// bundleNames are the variables that replace the certificates a program trusts.
var bundleNames = []string{
	"SSL_CERT_FILE",      // Go, OpenSSL, Python's ssl and httpx
	"REQUESTS_CA_BUNDLE", // Python requests
	"CURL_CA_BUNDLE",     // curl
	"GIT_SSL_CAINFO",     // git
}

// nodeRoots adds a certificate to those that Node trusts.
const nodeRoots = "NODE_EXTRA_CA_CERTS"

// systemRoots are the files in which systems keep the certificates they trust.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", // Debian, Alpine, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",             // SUSE
	"/etc/ssl/cert.pem",                  // macOS, BSD
}

// surroundings are what a program is given so that it calls through the proxy.
type surroundings struct {
	env []string
	dir string
	end []func()
}

// close removes what was made for the program.
func (s *surroundings) close() {
	for _, end := range s.end {
		end()
	}
}

// proxied makes programs that know nothing of Countersign call through its
// proxy: env, without what leads around it.
func proxied(ctx context.Context, c *client.Client, env []string, token string) (*surroundings, error) {
	root, err := c.ProxyRoot(ctx)
	if err != nil {
		return nil, fmt.Errorf("the certificate of the proxy could not be had (--no-proxy runs without it): %w", err)
	}
	server, err := url.Parse(c.URL())
	if err != nil {
		return nil, err
	}
	s := &surroundings{}
	if s.dir, err = os.MkdirTemp("", "countersign-run-"); err != nil {
		return nil, err
	}
	s.end = append(s.end, func() { _ = os.RemoveAll(s.dir) }) // a few public certificates
	if err := s.fill(server, env, root, token); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *surroundings) fill(server *url.URL, env []string, root []byte, token string) error {
	taken := slices.Concat(proxyNames, bundleNames, []string{nodeRoots})
	for _, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); !slices.Contains(taken, name) {
			s.env = append(s.env, kv)
		}
	}
	trusted := append(trustedBefore(), root...)
	one, err := s.write("countersign-ca.pem", root)
	if err != nil {
		return err
	}
	bundle, err := s.write("roots.pem", trusted)
	if err != nil {
		return err
	}
	proxy := *server
	proxy.User, proxy.Path = url.UserPassword("agent", token), ""
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		s.set(name, proxy.String())
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		s.set(name, server.Hostname()) // the doors with base URLs are there
	}
	for _, name := range bundleNames {
		s.set(name, bundle)
	}
	s.set(nodeRoots, one)
	s.set("NODE_USE_ENV_PROXY", "1") // fetch of Node from 22.21 and 24.5
	return s.java(server, token, trusted)
}

func (s *surroundings) set(name, value string) { s.env = append(s.env, name+"="+value) }

func (s *surroundings) write(name string, b []byte) (string, error) {
	file := filepath.Join(s.dir, name)
	return file, os.WriteFile(file, b, 0o600)
}

// trustedBefore returns what programs trust without us, in PEM: most variables
// replace that, and Countersign's own door may have a certificate of it.
func trustedBefore() []byte {
	for _, file := range append([]string{os.Getenv("SSL_CERT_FILE")}, systemRoots...) {
		if b, err := os.ReadFile(file); err == nil && len(b) > 0 {
			return append(b, '\n')
		}
	}
	return nil // then our root is all there is: who needs another says so
}

// certificates returns the DER of each certificate in PEM.
func certificates(b []byte) [][]byte {
	var out [][]byte
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block.Bytes)
		}
	}
}
