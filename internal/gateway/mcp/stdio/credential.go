package stdio

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/secrets"
)

// use says what for a child needs a secret, which a variable names as NAME or
// NAME#PART.
func (x *request) use(ref string) secrets.Use {
	secret, part, _ := strings.Cut(ref, "#")
	return secrets.Use{Call: x.call.ID, Secret: secret, Part: part, Connection: x.call.Connection.Name, Agent: x.call.Who.Agent.Name}
}

// stamp tells the credentials that a child of this call would be started with
// from those of other children, and until when they are good; the zero time if
// they do not end by themselves.
func (x *request) stamp() (stamp string, until time.Time, err error) {
	h, some := sha256.New(), false
	for _, kv := range environ(x.call.Connection.Env) {
		_, value, _ := strings.Cut(kv, "=")
		name, ok := strings.CutPrefix(value, connections.SecretScheme)
		if !ok {
			continue
		}
		one, ends, err := x.t.o.Injector.Stamp(x.ctx, x.receipt, x.use(name))
		if err != nil {
			return "", time.Time{}, gateway.ErrSecret.With(err)
		}
		h.Write([]byte(kv + "\x00" + one + "\x00"))
		some = true
		if !ends.IsZero() && (until.IsZero() || ends.Before(until)) {
			until = ends
		}
	}
	if !some {
		return "", time.Time{}, nil
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), until, nil
}

// stale reports whether a session's child was started with credentials that are
// not the present ones. Its client begins a new session, with a new child.
func (x *request) stale(s *session) (bool, error) {
	stamp, _, err := x.stamp()
	return err == nil && stamp != s.child.key.stamp, err
}

// lives ends the child when its credentials do.
func (c *child) lives(until time.Time) {
	if until.IsZero() {
		return
	}
	timer := time.AfterFunc(until.Sub(c.t.o.Now()), c.stop)
	c.t.wg.Go(func() {
		<-c.dead
		timer.Stop()
	})
}

// outlived stops a child whose credentials are not the present ones, as soon as
// it has nothing to answer.
func (c *child) outlived() {
	c.mu.Lock()
	busy := len(c.waiting) > 0
	c.mu.Unlock()
	if !busy {
		c.stop()
	}
}
