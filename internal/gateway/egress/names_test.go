package egress_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// names is a name server for this process: what it says can change.
type names struct {
	mu    sync.Mutex
	addr  netip.Addr
	asked []string
}

// newNames makes every name that is in no file mean addr.
func newNames(t *testing.T, addr string) *names {
	t.Helper()
	n := &names{addr: netip.MustParseAddr(addr)}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go n.serve(theirs)
		return ours, nil
	}}
	t.Cleanup(func() { net.DefaultResolver = before })
	return n
}

func (n *names) means(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addr = netip.MustParseAddr(addr)
}

// questions returns the names that were asked for, for their IPv4 address.
func (n *names) questions() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string{}, n.asked...)
}

// serve answers questions on a stream (RFC 1035, 4.2.2).
func (n *names) serve(c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		q := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, q); err != nil {
			return
		}
		a := n.answer(q)
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...)); err != nil {
			return
		}
	}
}

func (n *names) answer(q []byte) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	end, name := 12, ""
	for q[end] != 0 {
		name += string(q[end+1:end+1+int(q[end])]) + "."
		end += 1 + int(q[end])
	}
	question := q[12 : end+5]
	isA := binary.BigEndian.Uint16(q[end+1:]) == 1
	out := append([]byte{}, q[:2]...)
	out = append(out, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0)
	out = append(out, question...)
	if isA {
		n.asked = append(n.asked, name)
		out[7] = 1
		four := n.addr.As4()
		out = append(append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), four[:]...)
	}
	return out
}

// A name of a connection that means an address nobody may reach when it is
// asked for again gains nothing: each call asks once, and dials what it checked.
func TestANameThatChangesItsMeaning(t *testing.T) {
	n := newNames(t, "127.0.0.1")
	var arrived atomic.Int32
	api := tlsServer(t, "forge.example", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		arrived.Add(1)
		w.Header().Set("Connection", "close") // so that the next call dials
		echo(w, q)
	}))
	r := &rig{t: t}
	r.serve(storagetest.Open(t, storagetest.SQLite(t)), strings.Replace(api.URL, "127.0.0.1", "forge.example", 1), "", petOperations)
	if a := r.ask("GET", "/pets?limit=1", nil); a.status != 200 || len(n.questions()) != 1 {
		t.Fatalf("%+v after %v", a, n.questions())
	}
	for i, addr := range []string{"169.254.169.254", "0.0.0.0", "255.255.255.255"} {
		n.means(addr)
		if a := r.ask("GET", "/pets?limit=1", nil); a.status != 502 || a.code != "address_refused" || len(n.questions()) != 2+i {
			t.Errorf("%s: %+v after %v", addr, a, n.questions())
		}
	}
	if got := arrived.Load(); got != 1 {
		t.Errorf("%d requests arrived", got)
	}
}

// An answer that would become huge is never unpacked here: it is passed on as it
// came, and nothing of it is kept.
func TestAnAnswerThatIsABomb(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 256 {
		_, _ = z.Write(make([]byte, 1<<20))
	}
	z.Close()
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(bomb.Bytes())
	}, petOperations)
	a := r.ask("GET", "/pets", nil, "Accept-Encoding", "gzip")
	if a.status != 200 || a.body != bomb.String() || a.header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%d %v, %d bytes of %d", a.status, a.header, len(a.body), bomb.Len())
	}
	if p := r.Events(1, audit.CallOutcome)[0].Payloads; len(p) > 0 {
		t.Errorf("kept %v", p)
	}
}

// A Go program, which neither resolves the name nor knows where it leads.
func TestGoThroughTheProxy(t *testing.T) {
	newNames(t, "127.0.0.1")
	p := newProxiedAt(t, "forge.example", "forge.example", "", http.HandlerFunc(echo), petOperations)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(p.environment(), getEnv+"="+p.target+"/pets?limit=2")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "GET /pets?limit=2" {
		t.Errorf("%v: %s", err, out)
	}
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(p.environment(), getEnv+"=https://evil.example/")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "Forbidden") {
		t.Errorf("%v: %s", err, out)
	}
}

// git with the address that a person knows, and no key in it.
func TestGitThroughTheProxy(t *testing.T) {
	newNames(t, "127.0.0.1")
	root := t.TempDir()
	p := newProxiedAt(t, "forge.example", "forge.example", connections.Git, gitServer(gitBackend(t), root, func(*http.Request) {}), nil)
	h := &gitHouse{rig: p.rig, env: p.environment()}
	h.site(root)
	p.Policies(`permit (principal, action == Action::"forge/fetch", resource);
permit (principal, action == Action::"forge/push", resource) when { context.args has ref && context.args.ref like "refs/heads/bot/*" };`)
	h.git("", "clone", "-q", p.target+"/acme/site.git", h.work)
	h.commit(h.work, "second")
	h.git(h.work, "push", "-q", "origin", "main:refs/heads/bot/topic")
	h.git(h.work, "fetch", "-q")
	if out, err := h.try(h.work, "push", "-q", "origin", "main"); err == nil || !strings.Contains(out, "not allowed") && !strings.Contains(out, "denied") && !strings.Contains(out, "rejected") {
		t.Errorf("main was pushed: %v %s", err, out)
	}
	if got, want := h.git(h.bare, "rev-parse", "bot/topic"), h.git(h.work, "rev-parse", "main"); got != want {
		t.Errorf("the topic is at %s, want %s", got, want)
	}
	got := h.calls()
	for i, want := range []string{`fetch {"repository":"acme/site","step":"fetch"`, `push {"repository":"acme/site","step":"push","ref":"refs/heads/bot/topic","kind":"create"`} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("call %d: want %s, got %v", i, want, got)
		}
	}
}
