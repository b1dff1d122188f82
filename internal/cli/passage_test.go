//go:build linux

package cli

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// through opens a passage to a proxy and returns how to say something into it.
func through(t *testing.T, server string, owner int) (*passage, func(request string) *bufio.Reader) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	p, err := startPassage(u, "csr_token", owner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p, func(request string) *bufio.Reader {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.port()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(c)
	}
}

func TestPassage(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 200 %s %s %s\r\n\r\n", r.Method, r.RequestURI, r.Header.Get("Proxy-Authorization"))
		_, _ = io.Copy(c, buf) // says what it hears
	}))
	defer proxy.Close()
	p, say := through(t, proxy.URL, os.Getuid())
	in := say("CONNECT api.example:443 HTTP/1.1\r\nHost: other.example\r\nProxy-Authorization: Basic eDp5\r\n\r\nhello\n")
	if line, err := in.ReadString('\n'); err != nil || strings.TrimSpace(line) != "HTTP/1.1 200 CONNECT api.example:443 Basic YWdlbnQ6Y3NyX3Rva2Vu" {
		t.Errorf("%q %v", line, err)
	}
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if line, err := in.ReadString('\n'); line != "hello\n" {
		t.Errorf("%q %v", line, err)
	}
	for request, want := range map[string]string{
		"GET http://api.example/ HTTP/1.1\r\nHost: api.example\r\n\r\n": "HTTP/1.1 405",
		"nonsense\r\n\r\n": "",
	} {
		if b, _ := io.ReadAll(say(request)); !strings.HasPrefix(string(b), want) || want == "" && len(b) > 0 {
			t.Errorf("%q: %q", request, b)
		}
	}
	p.close()
	if b, _ := io.ReadAll(in); len(b) > 0 {
		t.Errorf("after its end: %q", b)
	}
	_, foreign := through(t, proxy.URL, os.Getuid()+1)
	if b, _ := io.ReadAll(foreign("CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n")); len(b) > 0 {
		t.Errorf("another user was let in: %q", b)
	}
	_, dead := through(t, "http://127.0.0.1:1", os.Getuid())
	if b, _ := io.ReadAll(dead("CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\r\n")); !strings.HasPrefix(string(b), "HTTP/1.1 502") {
		t.Errorf("no server: %q", b)
	}
}

func TestWhoseAConnectionIs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if uid, err := peer(in); err != nil || uid != os.Getuid() {
		t.Errorf("%d %v", uid, err)
	}
	const list = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1D2E 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:9C40 0100007F:1D2E 01 00000000:00000000 00:00000000 00000000  1001        0 2 1
   2: 0000000000000000FFFF00000100007F:9C41 0000000000000000FFFF00000100007F:1D2E 01 00000000:00000000 00:00000000 00000000  1002        0 3 1
`
	for from, want := range map[string]int{"0100007F:9C40": 1001, "0100007F:9C41": 1002, "0100007F:9C42": 0} {
		uid, ok := ownerIn(bufio.NewScanner(strings.NewReader(list)), from, "0100007F:1D2E")
		if uid != want || ok != (want != 0) {
			t.Errorf("%s: %d %v", from, uid, ok)
		}
	}
}
