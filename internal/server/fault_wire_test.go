package server_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// tap stands between a server and PostgreSQL. It can stop all traffic, as a
// network does that fails, and act on a statement before PostgreSQL gets it or
// after it was carried out and before the answer is passed on.
type tap struct {
	to string

	mu    sync.Mutex
	armed *stop
	shut  chan struct{} // open: traffic waits until it is closed
	lost  bool          // with shut: what was connected stays dead for good
	dead  map[net.Conn]bool
	conns map[net.Conn]bool
}

// stop is a place in the conversation with PostgreSQL.
type stop struct {
	sql, args string // parts of the statement and of its arguments
	commit    bool   // the commit of the transaction in which that happened
	after     bool   // it was carried out
	fire      func()
}

// newTap returns a tap in front of the server of dsn, and the DSN through it.
func newTap(t *testing.T, dsn string) (*tap, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	w := &tap{to: u.Host, conns: map[net.Conn]bool{}, dead: map[net.Conn]bool{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.mend(); l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(c)
		}
	}()
	u.Host = l.Addr().String()
	q := u.Query()
	q.Set("sslmode", "disable") // what passes is read
	u.RawQuery = q.Encode()
	return w, u.String()
}

func (w *tap) arm(s *stop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = s
}

// cut makes the network swallow everything in both directions. With lost, the
// connections that there are never come back.
func (w *tap) cut(lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut, w.lost = make(chan struct{}), lost
	if lost {
		for c := range w.conns {
			w.dead[c] = true
		}
	}
}

// mend makes it work again.
func (w *tap) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shut != nil {
		close(w.shut)
		w.shut = nil
	}
}

// pass waits while the network is cut and reports whether a connection lives.
func (w *tap) pass(c net.Conn) bool {
	w.mu.Lock()
	shut := w.shut
	w.mu.Unlock()
	if shut != nil {
		<-shut
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.dead[c]
}

func (w *tap) carry(client net.Conn) {
	w.mu.Lock()
	w.conns[client] = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.conns, client)
		w.mu.Unlock()
	}()
	if !w.pass(client) {
		io.Copy(io.Discard, client) // nobody answers
		client.Close()
		return
	}
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		client.Close()
		return
	}
	t := &talk{tap: w, client: client, server: server, statements: map[string]string{}}
	go func() {
		defer server.Close()
		t.requests()
	}()
	t.answers()
	client.Close()
	server.Close()
}

// talk is one connection, message by message.
type talk struct {
	*tap
	client, server net.Conn
	statements     map[string]string // prepared ones

	mu    sync.Mutex
	seen  bool  // the armed statement is in the present transaction
	after *stop // fires at the end of the present answer
}

// requests carries what the client says.
func (t *talk) requests() {
	if b, err := readStart(t.client); err != nil || !t.pass(t.client) || write(t.server, b) != nil {
		return
	}
	for {
		m, err := readMessage(t.client)
		if err != nil {
			return
		}
		if !t.pass(t.client) {
			io.Copy(io.Discard, t.client)
			return
		}
		if s := t.look(m); s != nil {
			s.fire()
			return
		}
		if write(t.server, m) != nil {
			return
		}
	}
}

// answers carries what the server says.
func (t *talk) answers() {
	for {
		m, err := readMessage(t.server)
		if err != nil || !t.pass(t.client) {
			return
		}
		if m[0] == 'Z' { // ready for the next: what was asked is done
			t.mu.Lock()
			s := t.after
			t.mu.Unlock()
			if s != nil {
				s.fire()
				return
			}
		}
		if write(t.client, m) != nil {
			return
		}
	}
}

// look returns the armed stop if a request is what it waits for and must not
// be passed on.
func (t *talk) look(m []byte) *stop {
	sql, body := "", m[5:]
	switch m[0] {
	case 'P': // parse: name, text
		name, rest, _ := bytes.Cut(body, []byte{0})
		text, _, _ := bytes.Cut(rest, []byte{0})
		t.statements[string(name)] = string(text)
		return nil
	case 'B': // bind: portal, name, arguments
		_, rest, _ := bytes.Cut(body, []byte{0})
		name, _, _ := bytes.Cut(rest, []byte{0})
		sql = t.statements[string(name)]
	case 'Q':
		sql = string(bytes.TrimRight(body, "\x00"))
	default:
		return nil
	}
	t.tap.mu.Lock()
	s := t.armed
	t.tap.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if s == nil || !t.meant(s, sql, body) {
		return nil
	}
	t.tap.mu.Lock()
	mine := t.armed == s
	t.armed = nil
	t.tap.mu.Unlock()
	if !mine {
		return nil
	}
	if s.after {
		t.after = s
		return nil
	}
	return s
}

// meant reports whether s waits for this statement.
func (t *talk) meant(s *stop, sql string, body []byte) bool {
	hit := strings.Contains(sql, s.sql) && bytes.Contains(body, []byte(s.args))
	switch {
	case !s.commit:
		return hit
	case strings.EqualFold(sql, "begin"), strings.EqualFold(sql, "rollback"):
		t.seen = false
	case strings.EqualFold(sql, "commit"):
		was := t.seen
		t.seen = false
		return was
	case hit:
		t.seen = true
	}
	return false
}

// readStart reads the first message, which has no type.
func readStart(c net.Conn) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head))
	copy(b, head)
	_, err := io.ReadFull(c, b[4:])
	return b, err
}

func readMessage(c net.Conn) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	b := make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
	copy(b, head)
	_, err := io.ReadFull(c, b[5:])
	return b, err
}

func write(c net.Conn, b []byte) error {
	_, err := c.Write(b)
	return err
}
