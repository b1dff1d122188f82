package egress_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway/egress"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// roots is the authority of the upstreams of these tests, which the process
// trusts like the system's own: see TestMain.
var roots struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// trustOurselves makes an authority and has this process trust it.
func trustOurselves() (cleanup func()) {
	var err error
	if roots.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		panic(err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "upstreams"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, roots.key.Public(), roots.key)
	if err != nil {
		panic(err)
	}
	if roots.cert, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "roots")
	if err != nil {
		panic(err)
	}
	name := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		panic(err)
	}
	os.Setenv("SSL_CERT_FILE", name)
	return func() { os.RemoveAll(dir) }
}

// tlsServer is a server whose certificate is for name.
func tlsServer(t *testing.T, name string, h http.Handler) *httptest.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, c, roots.cert, key.Public(), roots.key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

// proxied is a line with a proxy before an API at https://localhost:PORT.
type proxied struct {
	*rig
	proxy  string // http://HOST:PORT
	target string // https://localhost:PORT
	ca     string // file
	seen   []string
}

func newProxied(t *testing.T, certFor, dialect string, h http.Handler, operations map[string]string) *proxied {
	return newProxiedAt(t, "localhost", certFor, dialect, h, operations)
}

func newProxiedAt(t *testing.T, host, certFor, dialect string, h http.Handler, operations map[string]string) *proxied {
	t.Helper()
	p := &proxied{rig: &rig{t: t}}
	s := tlsServer(t, certFor, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.seen = append(p.seen, r.Header.Get("Authorization"))
		h.ServeHTTP(w, r)
	}))
	p.target = strings.Replace(s.URL, "127.0.0.1", host, 1)
	p.serve(storagetest.Open(t, storagetest.SQLite(t)), p.target, dialect, operations)
	front := egress.New(egress.Options{Gateway: p.Gateway, Registry: p.Connections, MaxBody: 64 << 10, ReadTimeout: 5 * time.Second})
	seed := []byte("0123456789abcdef0123456789abcdef")
	proxy, err := egress.NewProxy(egress.ProxyOptions{Front: front, Seed: seed, Door: func(string) http.Handler { return http.NotFoundHandler() }})
	if err != nil {
		t.Fatal(err)
	}
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if egress.IsProxied(r) {
			proxy.ServeHTTP(w, r)
			return
		}
		proxy.Root(w, r)
	}))
	t.Cleanup(func() { proxy.Close(); door.CloseClientConnections(); door.Close() })
	p.proxy = door.URL
	resp, err := http.Get(door.URL + "/proxy/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	p.ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(p.ca, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *proxied) withKey() string {
	return strings.Replace(p.proxy, "http://", "http://agent:"+p.Key+"@", 1)
}

// environment is what countersign run sets, for programs of these tests.
func (p *proxied) environment() []string {
	return append(os.Environ(), "HTTPS_PROXY="+p.withKey(), "https_proxy="+p.withKey(), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1", "SSL_CERT_FILE="+p.ca, "REQUESTS_CA_BUNDLE="+p.ca,
		"CURL_CA_BUNDLE="+p.ca, "NODE_EXTRA_CA_CERTS="+p.ca, "NODE_USE_ENV_PROXY=1", "GIT_SSL_CAINFO="+p.ca, "HOME="+p.t.TempDir())
}

func (p *proxied) client() *http.Client {
	u, err := url.Parse(p.withKey())
	if err != nil {
		p.t.Fatal(err)
	}
	pem, err := os.ReadFile(p.ca)
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func TestProxy(t *testing.T) {
	p := newProxied(t, "localhost", "", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pets/home" {
			w.Header().Set("Location", "/pets?limit=1")
			w.WriteHeader(302)
			return
		}
		echo(w, r)
	}), petOperations)
	get := func(path string, header ...string) (int, string) {
		req, _ := http.NewRequest("GET", p.target+path, nil)
		req.Header.Set("Authorization", "token of-the-program")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
			if header[i] == "Host" {
				req.Host = header[i+1]
			}
		}
		resp, err := p.client().Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b) + resp.Header.Get("Location")
	}
	if status, body := get("/pets?limit=3"); status != 200 || body != "GET /pets?limit=3" {
		t.Fatalf("%d %s", status, body)
	}
	if p.seen[0] != "" && p.seen[0] == "token of-the-program" {
		t.Errorf("the upstream saw %q", p.seen[0])
	}
	if status, body := get("/pets/home"); status != 302 || body != "/pets?limit=1" {
		t.Errorf("a redirect: %d %s", status, body)
	}
	before := len(p.seen)
	for name, c := range map[string]struct {
		path   string
		header []string
		status int
		code   string
	}{
		"no operation":   {"/admin", nil, 404, "unknown_operation"},
		"another host":   {"/pets", []string{"Host", "evil.example"}, 421, "name_mismatch"},
		"a loop":         {"/pets", []string{"X-Countersign-Call", "call_1"}, 508, "proxy_loop"},
		"a bad argument": {"/pets?x=1", nil, 400, "bad_argument"},
	} {
		if status, body := get(c.path, c.header...); status != c.status || !strings.Contains(body, c.code) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if len(p.seen) != before {
		t.Error("a refused request reached the upstream")
	}
}

func TestTunnelsRefused(t *testing.T) {
	p := newProxied(t, "localhost", "", http.HandlerFunc(echo), petOperations)
	port := p.target[strings.LastIndexByte(p.target, ':')+1:]
	ask := func(authority, key string) string {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.proxy, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		auth := ""
		if key != "" {
			req := &http.Request{Header: http.Header{}}
			req.SetBasicAuth("a", key)
			auth = "Proxy-Authorization: " + req.Header.Get("Authorization") + "\r\n"
		}
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", authority, authority, auth)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(line)
	}
	n := 0
	for _, authority := range []string{"169.254.169.254:443", "169.254.169.254:80", "[fd00:ec2::254]:443", "127.0.0.1:22", "10.0.0.1:443", "metadata.google.internal:443", "evil.example:443",
		"localhost:1", "localhost.:" + port, "127.0.0.1:" + port, "2130706433:443", "[::1]:" + port, strings.TrimPrefix(p.proxy, "http://")} {
		if got := ask(authority, p.Key); !strings.Contains(got, "403") {
			t.Errorf("%s: %s", authority, got)
		}
		n++
	}
	for _, r := range p.Events(n, audit.CallRefused) {
		if !strings.Contains(string(r.Event.Detail), "host_refused") || r.Event.Agent != "invoice-checker" || !strings.HasPrefix(r.Event.Tool, "CONNECT ") {
			t.Errorf("event %s", r.Raw)
		}
	}
	for _, key := range []string{"", "csk_wrong"} {
		if got := ask("localhost:"+port, key); !strings.Contains(got, "407") {
			t.Errorf("with the key %q: %s", key, got)
		}
	}
	if got := ask("LocalHost:"+port, p.Key); !strings.Contains(got, "200") {
		t.Errorf("in another case: %s", got)
	}
}

func TestServerNameMustBeTheTunnels(t *testing.T) {
	p := newProxied(t, "localhost", "", http.HandlerFunc(echo), petOperations)
	c := p.client()
	c.Transport.(*http.Transport).TLSClientConfig.ServerName = "other.example"
	if resp, err := c.Get(p.target + "/pets"); err == nil {
		resp.Body.Close()
		t.Error("another SNI was served")
	}
	p.Events(1, audit.CallRefused)
	// The root is for the hosts of connections alone.
	pemBytes, _ := os.ReadFile(p.ca)
	block, _ := pem.Decode(pemBytes)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !root.PermittedDNSDomainsCritical || strings.Join(root.PermittedDNSDomains, " ") != "invalid localhost" {
		t.Errorf("%v %v", root.PermittedDNSDomains, err)
	}
}

func TestAnUpstreamWithAnothersCertificate(t *testing.T) {
	p := newProxied(t, "other.example", "", http.HandlerFunc(echo), petOperations)
	resp, err := p.client().Get(p.target + "/pets")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 502 || len(p.seen) > 0 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// The programs that people run, unmodified, with what countersign run sets.
func TestRealClientsThroughTheProxy(t *testing.T) {
	p := newProxied(t, "localhost", "", http.HandlerFunc(echo), petOperations)
	env := append(p.environment(), "NO_PROXY=", "no_proxy=")
	for name, args := range map[string][]string{
		"curl":            {"curl", "-sS", p.target + "/pets?limit=2"},
		"Python requests": {"python3", "-c", "import requests; print(requests.get('" + p.target + "/pets', params={'limit': 2}).text)"},
		"Python upload":   {"python3", "-c", "import requests; print(requests.post('" + p.target + "/upload', data={'title': 'Hi'}, files={'file': ('a.txt', b'x' * 300000)}).text)"},
		"Python urllib":   {"python3", "-c", "import urllib.request; print(urllib.request.urlopen('" + p.target + "/pets?limit=2').read().decode())"},
		"Node fetch":      {"node", "-e", "fetch('" + p.target + "/pets?limit=2').then(r => r.text()).then(console.log)"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skip(err)
			}
			if v, _ := exec.Command("node", "-p", "+process.versions.node.split('.')[0]").Output(); args[0] == "node" && string(v) < "24" {
				t.Skip("fetch of Node before 24 takes no proxy from its environment")
			}
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = env
			out, err := cmd.CombinedOutput()
			if s := string(out); err != nil || !strings.Contains(s, "GET /pets?limit=2") && !strings.Contains(s, "POST /upload") {
				if strings.Contains(s, "No module named") {
					t.Skip(s)
				}
				t.Errorf("%v: %s", err, s)
			}
		})
	}
}
