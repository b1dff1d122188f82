package storage_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
)

// wire stands between a pool and PostgreSQL. Connections made before hush say
// nothing any more, and are not closed; later ones work.
type wire struct {
	to    string
	mu    sync.Mutex
	quiet *atomic.Bool // of the connections made now
	heard atomic.Int64 // bytes that were sent into the silence
}

func (w *wire) hush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiet.Store(true)
	w.quiet = new(atomic.Bool)
}

func newWire(t *testing.T, dsn string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w := &wire{to: u.Host, quiet: new(atomic.Bool)}
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
	return w, u.String()
}

func (w *wire) carry(client net.Conn) {
	defer client.Close()
	w.mu.Lock()
	quiet := w.quiet
	w.mu.Unlock()
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := client.Read(b)
		if err != nil {
			return
		}
		if quiet.Load() {
			w.heard.Add(int64(n))
		} else if _, err := server.Write(b[:n]); err != nil {
			return
		}
	}
}

// A connection that died in silence while nobody used it costs its next user the
// bound of the ping, not their whole deadline.
func TestAConnectionThatDiedInSilenceIsReplacedInTime(t *testing.T) {
	t.Parallel()
	w, dsn := newWire(t, storagetest.Postgres(t))
	db := storagetest.Open(t, dsn)
	if err := db.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // the pool trusts what was used within a second
	idle := time.Duration(db.Pool().Stat().IdleConns())
	if idle == 0 {
		t.Fatal("no connection lies idle")
	}
	w.hush()
	const slack = 10 * time.Second // for a busy machine; without the bound the ping would wait for a minute
	ctx, cancel := context.WithTimeout(t.Context(), idle*storage.PingTimeout+slack)
	defer cancel()
	if err := db.Ping(ctx); err != nil {
		t.Errorf("with %d idle connections: %v", idle, err)
	}
	if w.heard.Load() == 0 {
		t.Error("the dead connection was not tried: this test shows nothing")
	}
}
