package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/identity"
)

// Errors of the proxy.
var (
	errHost = fault.New(fault.Denied, "host_refused", "no connection has this host; every other host is refused")
	errName = fault.New(fault.Invalid, "name_mismatch", "the host of the tunnel, of its TLS handshake (SNI) and of the request must be the same")
	errRoom = fault.New(fault.NotFound, "unknown_path", "a connection has this host, but none this path")
	errLoop = fault.New(fault.Conflict, "proxy_loop", "the request has come through Countersign already")
)

// ProxyOptions are what a Proxy is made of. All but Logger and Now must be set.
type ProxyOptions struct {
	Front *Front
	Seed  []byte // 32 bytes, of the authority's key; the same on every replica
	// Door returns the front of connections of another kind than http, whose path
	// is "/" + kind + "/" + connection.
	Door   func(kind string) http.Handler
	Now    func() time.Time
	Logger *slog.Logger
}

// Proxy is an HTTP proxy for programs that cannot change a base URL. A host that
// is a connection's is that connection: the proxy ends the TLS of a tunnel
// itself and hands each request to its front. It opens no connection to any
// host that a client names: what is dialled, and how its address is checked, is
// the line's business.
type Proxy struct {
	o    ProxyOptions
	gate *gateway.Gateway
	ca   *authority

	mu     sync.Mutex
	closed bool
	inner  map[*http.Server]struct{}
}

// NewProxy returns a proxy. Close ends its tunnels.
func NewProxy(o ProxyOptions) (*Proxy, error) {
	if o.Front == nil || o.Door == nil {
		panic("egress: Front and Door must be set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ca, err := newAuthority(o.Seed, o.Now)
	if err != nil {
		return nil, err
	}
	return &Proxy{o: o, gate: o.Front.o.Gateway, ca: ca, inner: map[*http.Server]struct{}{}}, nil
}

// IsProxied reports whether a request is one to a proxy (RFC 9112, 3.2.2 and 3.2.3).
func IsProxied(r *http.Request) bool { return r.Method == http.MethodConnect || r.URL.IsAbs() }

// Root serves the certificate of the authority.
func (p *Proxy) Root(w http.ResponseWriter, _ *http.Request) {
	var hosts []string
	for _, c := range p.o.Front.o.Registry.Connections() {
		if u, err := url.Parse(c.URL); err == nil && u.Scheme == "https" {
			hosts = append(hosts, strings.ToLower(u.Hostname()))
		}
	}
	b, err := p.ca.root(hosts)
	if err != nil {
		http.Error(w, "the certificate cannot be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // a client that left needs none
}

// ServeHTTP takes a request to a proxy.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	credential, err := p.credential(r.Header)
	in := gateway.Incoming{Front: "http", Remote: r.RemoteAddr, Client: r.UserAgent(), Credential: credential}
	if err != nil {
		p.refuse(w, r, p.gate.Unauthenticated(in, err))
		return
	}
	if r.Method == http.MethodConnect {
		p.connect(w, r, in)
		return
	}
	if r.URL.Scheme != "http" {
		p.refuse(w, r, p.refused(r, in, errHost))
		return
	}
	host := authorityOf(r.URL.Host, "80")
	if !strings.EqualFold(authorityOf(r.Host, "80"), host) {
		p.refuse(w, r, p.refused(r, in, errName))
		return
	}
	p.pass(w, r, in, "http", host)
}

// credential returns what a client presented to the proxy.
func (p *Proxy) credential(h http.Header) (string, error) {
	values := h["Proxy-Authorization"]
	if len(values) != 1 {
		return "", gateway.ErrCredential.Say("no credential was presented to the proxy; send the agent's key as the password in HTTPS_PROXY, or start the program with countersign run")
	}
	return credential(http.Header{"Authorization": values})
}

// authorityOf returns host:port in lower case.
func authorityOf(hostport, port string) string {
	if _, _, err := net.SplitHostPort(hostport); err != nil {
		hostport = net.JoinHostPort(strings.Trim(hostport, "[]"), port)
	}
	return strings.ToLower(hostport)
}

// route returns the connection that has a host and the longest beginning of a
// path, and that beginning. Any connection of the host if path is "*".
func (p *Proxy) route(scheme, host, path string) (found connections.Connection, base string, ok bool) {
	for _, c := range p.o.Front.o.Registry.Connections() {
		u, err := url.Parse(c.URL)
		if err != nil || u.Scheme != scheme || authorityOf(u.Host, map[string]string{"http": "80", "https": "443"}[scheme]) != host {
			continue
		}
		b := strings.TrimRight(u.EscapedPath(), "/")
		beneath := path == "*" || path == b || strings.HasPrefix(path, b+"/")
		if beneath && (!ok || len(b) > len(base)) {
			found, base, ok = c, b, true
		}
	}
	return found, base, ok
}

// connect opens a tunnel to a host that is a connection's, and serves it.
func (p *Proxy) connect(w http.ResponseWriter, r *http.Request, in gateway.Incoming) {
	host := strings.ToLower(r.Host)
	name, _, err := net.SplitHostPort(host)
	c, _, known := p.route("https", host, "*")
	if err != nil || !known {
		p.refuse(w, r, p.refused(r, in, errHost))
		return
	}
	in.Connection = c.Name
	if _, err := p.gate.Identify(r.Context(), in); err != nil {
		p.refuse(w, r, gateway.Refuse(err))
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be a tunnel", http.StatusInternalServerError)
		return
	}
	_ = conn.SetDeadline(time.Now().Add(p.o.Front.o.WriteTimeout))
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection Established\r\n\r\n"); err != nil {
		conn.Close()
		return
	}
	inside := tls.Server(&buffered{Conn: conn, r: buf}, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if !strings.EqualFold(hello.ServerName, name) && (hello.ServerName != "" || net.ParseIP(name) == nil) {
				return nil, errName
			}
			return p.ca.leaf(name)
		}})
	if err := inside.HandshakeContext(r.Context()); err != nil {
		if errors.Is(err, errName) {
			_ = p.refused(r, in, errName) // the client sees that the handshake failed
		}
		conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	p.serve(inside, r, in, host)
}

// serve takes the requests within a tunnel until it ends.
func (p *Proxy) serve(conn net.Conn, outer *http.Request, in gateway.Incoming, host string) {
	one := &oneConn{conn: conn, done: make(chan struct{})}
	s := &http.Server{
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(p.o.Logger.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				one.end()
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.RemoteAddr = outer.RemoteAddr
			if IsProxied(r) || authorityOf(r.Host, "443") != host {
				p.refuse(w, r, p.refused(r, in, errName))
				return
			}
			in := in
			in.Client = r.UserAgent()
			p.pass(w, r, in, "https", host)
		}),
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		conn.Close()
		return
	}
	p.inner[s] = struct{}{}
	p.mu.Unlock()
	_ = s.Serve(one) // ends with the connection
	p.mu.Lock()
	delete(p.inner, s)
	p.mu.Unlock()
}

// pass hands a request on to the front of its connection.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, in gateway.Incoming, scheme, host string) {
	path := r.URL.EscapedPath()
	c, base, ok := p.route(scheme, host, path)
	switch {
	case len(r.Header["X-Countersign-Call"]) > 0:
		p.refuse(w, r, p.refused(r, in, errLoop))
		return
	case !ok && !p.knows(scheme, host):
		p.refuse(w, r, p.refused(r, in, errHost))
		return
	case !ok:
		p.refuse(w, r, p.refused(r, in, errRoom))
		return
	}
	rest := strings.TrimPrefix(path, base)
	r.Header.Del("Proxy-Authorization")
	if c.Kind == connections.HTTP {
		p.o.Front.serve(w, r, exchange{name: c.Name, path: rest, door: base, secret: in.Credential})
		return
	}
	again := r.Clone(r.Context())
	for _, name := range []string{"X-Api-Key", "Api-Key"} {
		again.Header.Del(name) // of the upstream, in the client's mind
	}
	again.Header.Set("Authorization", "Bearer "+in.Credential)
	u, err := url.Parse("/" + c.Kind + "/" + c.Name + rest)
	if err != nil {
		p.refuse(w, r, p.refused(r, in, gateway.ErrPath))
		return
	}
	u.RawQuery = r.URL.RawQuery
	again.URL, again.RequestURI = u, u.RequestURI()
	p.o.Door(c.Kind).ServeHTTP(w, again)
}

func (p *Proxy) knows(scheme, host string) bool {
	_, _, ok := p.route(scheme, host, "*")
	return ok
}

// refused records that a request was refused, and why.
func (p *Proxy) refused(r *http.Request, in gateway.Incoming, why error) *gateway.Refusal {
	in.Tool = r.Method + " " + r.Host
	in.Parse = func(context.Context, identity.Caller) (*gateway.Call, error) { return nil, why }
	_, err := p.gate.Serve(r.Context(), in)
	return gateway.Refuse(err)
}

// refuse answers as a proxy does.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, refusal *gateway.Refusal) {
	x := &exchange{f: p.o.Front, w: w, r: r}
	if refusal.Kind == fault.Unauthenticated {
		w.Header().Set("Proxy-Authenticate", `Basic realm="countersign"`)
		x.status = http.StatusProxyAuthRequired
	}
	if refusal.Code == errName.Code {
		x.status = http.StatusMisdirectedRequest
	}
	if refusal.Code == errLoop.Code {
		x.status = http.StatusLoopDetected
	}
	x.refuse(refusal)
}

// Close ends every tunnel.
func (p *Proxy) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for s := range p.inner {
		_ = s.Close() // what it cannot close is closed
	}
}

// buffered is a connection of which something was read ahead.
type buffered struct {
	net.Conn
	r io.Reader
}

// Read implements io.Reader.
func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// oneConn is a listener of one connection.
type oneConn struct {
	conn net.Conn
	once sync.Once
	fin  sync.Once
	done chan struct{}
}

// Accept returns the connection, then waits for its end.
func (l *oneConn) Accept() (net.Conn, error) {
	var c net.Conn
	l.once.Do(func() { c = l.conn })
	if c != nil {
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) end() { l.fin.Do(func() { close(l.done) }) }

// Close implements net.Listener.
func (l *oneConn) Close() error { l.end(); return nil }

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
