package cli

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// passage is a way to the server's proxy for programs that can name a proxy but
// not its password. It listens on this machine and lets nobody in but processes
// of the user that runs it, who could read the token anyway.
type passage struct {
	listener net.Listener
	server   *url.URL
	token    string
	owner    int // the user whose processes are let in

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]struct{}
	served sync.WaitGroup
}

// startPassage opens one; nil where the system does not say whose a connection is.
func startPassage(server *url.URL, token string, owner int) (*passage, error) {
	if !knowsPeers {
		return nil, nil
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &passage{listener: l, server: server, token: token, owner: owner, open: map[net.Conn]struct{}{}}
	p.served.Go(p.accept)
	return p, nil
}

func (p *passage) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// close ends everything that goes through it.
func (p *passage) close() {
	p.mu.Lock()
	p.closed = true
	_ = p.listener.Close()
	for c := range p.open {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.served.Wait()
}

// keep has close end a connection; false if it is too late.
func (p *passage) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.Close()
		return false
	}
	p.open[c] = struct{}{}
	return true
}

func (p *passage) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
	_ = c.Close()
}

func (p *passage) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files: it passes
			time.Sleep(50 * time.Millisecond)
			continue
		}
		p.served.Go(func() {
			if p.keep(c) {
				defer p.drop(c)
				p.serve(c)
			}
		})
	}
}

// serve takes one CONNECT and then passes bytes.
func (p *passage) serve(c net.Conn) {
	if uid, err := peer(c); err != nil || uid != p.owner {
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	if r.Method != http.MethodConnect {
		_, _ = io.WriteString(c, "HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	out, err := p.dial()
	if err != nil {
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	if !p.keep(out) {
		return
	}
	defer p.drop(out)
	credential := base64.StdEncoding.EncodeToString([]byte("agent:" + p.token))
	if _, err := fmt.Fprintf(out, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n\r\n", r.RequestURI, r.RequestURI, credential); err != nil {
		return
	}
	p.served.Go(func() {
		_, _ = io.Copy(out, in) // either side may leave at any time
		_ = out.Close()
	})
	_, _ = io.Copy(c, out)
}

func (p *passage) dial() (net.Conn, error) {
	port := p.server.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[p.server.Scheme]
	}
	at, dialer := net.JoinHostPort(p.server.Hostname(), port), &net.Dialer{Timeout: 10 * time.Second}
	if p.server.Scheme != "https" {
		return dialer.Dial("tcp", at)
	}
	return tls.DialWithDialer(dialer, "tcp", at, &tls.Config{MinVersion: tls.VersionTLS12})
}
