package stdio

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/mcp/wire"
)

// child is one process.
type child struct {
	t     *Transport
	key   key
	users int // sessions, under the transport's mutex

	ready chan struct{} // closed when it runs or failed to start
	dead  chan struct{} // closed when it is gone

	mu       sync.Mutex
	owner    bool // somebody has taken on starting it
	err      error
	stopping bool
	cmd      *exec.Cmd
	stdin    *os.File
	next     int64
	waiting  map[int64]*pending
	asked    map[string]*session // raw ids of the child's open requests, and whom they went to
	hello    []byte              // the result of initialize, once
	greeting chan struct{}       // closed when hello is known; nil if nobody initialises
	greeted  bool                // notifications/initialized was sent
	open     []*session          // that listen
	idle     *time.Timer

	veil veil // over the credentials in its environment; made before it runs

	writing chan struct{} // holds a token while a message is written
}

func newChild(t *Transport, k key) *child {
	return &child{t: t, key: k, ready: make(chan struct{}), dead: make(chan struct{}), writing: make(chan struct{}, 1), waiting: map[int64]*pending{}, asked: map[string]*session{}}
}

// starting reports whether the caller is the one who must start c; others wait
// until it runs.
func (c *child) starting() bool {
	c.mu.Lock()
	if !c.owner {
		c.owner = true
		c.mu.Unlock()
		return true
	}
	c.mu.Unlock()
	<-c.ready
	return false
}

// start runs the connection's command, after that was recorded.
func (x *request) start(c *child) error {
	conn := x.call.Connection
	ev := audit.Event{
		Type: audit.UpstreamUsed, Actor: audit.System, Agent: x.call.Who.Agent.Name, Owner: x.call.Who.Agent.Owner,
		Run: x.call.Run, Connection: conn.Name, Object: "connection/" + conn.Name, Reason: "start of the connection's command",
	}
	if _, err := x.t.o.Ledger.Append(x.ctx, ev); err != nil {
		return gateway.ErrLedger.With(err)
	}
	env, err := x.environment(c, conn)
	if err != nil {
		return err
	}
	path, err := exec.LookPath(conn.Command[0])
	if err != nil {
		return ErrStart.With(err)
	}
	ours, theirs, err := pipes()
	if err != nil {
		return ErrStart.With(err)
	}
	defer theirs.close()
	cmd := &exec.Cmd{Path: path, Args: conn.Command, Env: env, SysProcAttr: attributes(), Stdin: theirs.in, Stdout: theirs.out, Stderr: theirs.err}
	if err := x.t.spawn.start(cmd); err != nil {
		ours.close()
		return ErrStart.With(err)
	}
	c.run(cmd, ours)
	return nil
}

// stdio are the three streams of a process, seen from one side.
type stdio struct{ in, out, err *os.File }

func (s stdio) close() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// pipes are ours rather than exec's, for their deadlines and because a process
// that a child left behind may hold them open.
func pipes() (ours, theirs stdio, err error) {
	for _, p := range []struct{ read, write **os.File }{{&theirs.in, &ours.in}, {&ours.out, &theirs.out}, {&ours.err, &theirs.err}} {
		if *p.read, *p.write, err = os.Pipe(); err != nil {
			ours.close()
			theirs.close()
			return stdio{}, stdio{}, err
		}
	}
	return ours, theirs, nil
}

// environment is what a child may know: where programs and its home are, and
// what its connection says, with secrets in place of their names.
func (x *request) environment(c *child, conn connections.Connection) ([]string, error) {
	env := make([]string, 0, 3+len(conn.Env))
	for _, name := range []string{"PATH", "HOME", "LANG"} {
		if v, ok := os.LookupEnv(name); ok && conn.Env[name] == "" {
			env = append(env, name+"="+v)
		}
	}
	for _, kv := range environ(conn.Env) {
		name, value, _ := strings.Cut(kv, "=")
		if secret, ok := strings.CutPrefix(value, connections.SecretScheme); ok {
			v, err := x.t.o.Injector.Inject(x.ctx, x.receipt, x.use(secret))
			if err != nil {
				return nil, gateway.ErrSecret.With(err)
			}
			kv = name + "=" + string(v.Expose())
			c.veil.add(v)
			v.Wipe()
		}
		env = append(env, kv)
	}
	return env, nil
}

func environ(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		out = append(out, name+"="+env[name])
	}
	return out
}

// run supervises the started process.
func (c *child) run(cmd *exec.Cmd, pipes stdio) {
	began := time.Now()
	c.mu.Lock()
	c.cmd, c.stdin = cmd, pipes.in
	c.idle = time.AfterFunc(c.t.o.Idle, c.rest)
	stop := c.stopping
	c.mu.Unlock()
	close(c.ready)
	if stop {
		c.t.wg.Go(c.terminate)
	}
	var drained sync.WaitGroup
	drained.Go(func() { c.read(pipes.out) })
	drained.Go(func() { c.complain(pipes.err) })
	go func() {
		defer c.t.wg.Done()
		state, err := cmd.Process.Wait()
		killGroup(cmd) // what it left behind
		c.mu.Lock()
		c.idle.Stop()
		c.mu.Unlock()
		if !c.stopped() {
			c.t.o.Logger.Warn("an MCP server's process ended", "connection", c.key.conn, "state", fmt.Sprint(state), "error", err)
		}
		late := time.AfterFunc(c.t.o.Grace, pipes.close) // somebody may still hold the other ends
		drained.Wait()
		late.Stop()
		pipes.close()
		c.veil.wipe()
		c.fail(ErrDied)
		c.t.gone(c, time.Since(began))
	}()
}

// fail ends everything that waits for the child.
func (c *child) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	waiting := c.waiting
	c.waiting = map[int64]*pending{}
	started := c.cmd != nil
	c.mu.Unlock()
	if !started {
		close(c.ready)
	}
	close(c.dead)
	for _, p := range waiting {
		p.end(err)
	}
}

func (c *child) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *child) stopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

// rest stops a child that nobody uses.
func (c *child) rest() {
	c.mu.Lock()
	if len(c.waiting)+len(c.open) > 0 {
		c.idle.Reset(c.t.o.Idle)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	c.stop()
}

// stop ends the child in the background.
func (c *child) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping {
		return
	}
	c.stopping = true
	if c.cmd != nil {
		c.t.wg.Go(c.terminate)
	}
}

// terminate asks more and more firmly: end of input, SIGTERM, SIGKILL.
func (c *child) terminate() {
	c.writing <- struct{}{} // not in the middle of a message
	_ = c.stdin.Close()
	<-c.writing
	for _, signal := range []func(*exec.Cmd){termGroup, killGroup} {
		select {
		case <-c.dead:
			return
		case <-time.After(c.t.o.Grace):
			signal(c.cmd)
		}
	}
}

// read takes the child's messages until its output ends.
func (c *child) read(r io.Reader) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := c.line(lines)
		if line = bytes.TrimSpace(line); len(line) > 0 {
			c.receive(line)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				c.t.o.Logger.Warn("an MCP server's output cannot be read; its process is ended", "connection", c.key.conn, "error", err)
				killGroup(c.cmd)
			}
			return
		}
	}
}

var errLine = errors.New("a message is longer than allowed")

func (c *child) line(r *bufio.Reader) ([]byte, error) {
	var long []byte
	for {
		part, err := r.ReadSlice('\n')
		long = append(long, part...)
		if len(long) > c.t.o.MaxLine {
			return nil, errLine
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return long, err
		}
	}
}

// writeTime is how long a child may take to read a message.
const writeTime = 10 * time.Second

// write sends one message as one line. A newline in valid JSON can only be
// white space. None is left at the end: there are servers that give up on it.
func (c *child) write(ctx context.Context, message []byte) error {
	line := append(bytes.Clone(bytes.TrimRight(message, " \t\r\n")), '\n')
	for i, b := range line[:len(line)-1] {
		if b == '\n' || b == '\r' {
			line[i] = ' '
		}
	}
	if err := c.failure(); err != nil {
		return err
	}
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-c.dead:
		return ErrDied
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.idle.Reset(c.t.o.Idle)
	_ = c.stdin.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := c.stdin.Write(line); err != nil {
		killGroup(c.cmd) // half a message may have been written: nothing can follow it
		return ErrDied.With(err)
	}
	return nil
}

// reserve makes a place for an answer.
func (c *child) reserve(p *pending) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.next++
	p.child, p.number = c, c.next
	c.waiting[p.number] = p
	return p.number, nil
}

// forget drops an answer nobody waits for any more and tells the child.
func (c *child) forget(p *pending) {
	c.mu.Lock()
	_, waits := c.waiting[p.number]
	delete(c.waiting, p.number)
	c.mu.Unlock()
	if !waits {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.t.o.Grace)
	defer cancel()
	_ = c.write(ctx, []byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+strconv.FormatInt(p.number, 10)+`,"reason":"the client went away"}}`))
}

// receive routes one message of the child.
func (c *child) receive(line []byte) {
	m, err := wire.Scan(line)
	if err != nil {
		c.t.o.Logger.Warn("an MCP server's process wrote something that is not a message", "connection", c.key.conn, "error", err)
		return
	}
	m, ok := c.covered(m)
	if !ok {
		c.t.o.Logger.Warn("a message of an MCP server's process held a credential and was dropped", "connection", c.key.conn)
		return
	}
	switch m.Kind {
	case wire.Response:
		c.answered(m)
	case wire.Request:
		c.question(m)
	default:
		c.notice(m)
	}
}

// answered hands a response to who waits for it, under the id it was asked by.
func (c *child) answered(m wire.Message) {
	n, err := strconv.ParseInt(string(m.ID.Of(m.Raw)), 10, 64)
	if err != nil {
		return
	}
	c.mu.Lock()
	p := c.waiting[n]
	delete(c.waiting, n)
	c.mu.Unlock()
	if p == nil {
		return // cancelled
	}
	p.push(wire.Splice(m.Raw, wire.Edit{At: m.ID, With: p.id}))
	p.end(nil)
}

// notice passes a notification to the request it belongs to, or to everyone
// who listens.
func (c *child) notice(m wire.Message) {
	token := wire.Find(m.Raw, m.Params, "progressToken")
	if m.Method != "notifications/progress" {
		token = wire.Find(m.Raw, m.Meta, subscriptionID)
	}
	if token.Present() {
		n, err := strconv.ParseInt(string(token.Of(m.Raw)), 10, 64)
		c.mu.Lock()
		p := c.waiting[n]
		c.mu.Unlock()
		if err != nil || p == nil {
			return
		}
		original := p.id
		if m.Method == "notifications/progress" {
			original = p.token
		}
		if original != nil {
			p.push(wire.Splice(m.Raw, wire.Edit{At: token, With: original}))
		}
		return
	}
	c.mu.Lock()
	listeners, latest := slices.Clone(c.open), c.latest()
	c.mu.Unlock()
	if latest != nil && (len(listeners) == 0 || m.Method == "notifications/message") {
		latest.push(m.Raw)
		return
	}
	for _, s := range listeners {
		s.push(m.Raw)
	}
}

// question passes a request of the server to one client: the one whose request
// it is most likely about. If nobody listens, the child is told so.
func (c *child) question(m wire.Message) {
	id := string(m.ID.Of(m.Raw))
	c.mu.Lock()
	latest := c.latest()
	var s *session
	if c.key.modern || len(c.asked) >= maxQueue { // no such thing in the modern era
	} else if latest != nil {
		s = latest.session
	} else if len(c.open) > 0 {
		s = c.open[len(c.open)-1]
	}
	if s != nil {
		c.asked[id] = s
	}
	c.mu.Unlock()
	switch {
	case s != nil && latest != nil:
		latest.push(m.Raw)
	case s != nil:
		s.push(m.Raw)
	default:
		ctx, cancel := context.WithTimeout(context.Background(), c.t.o.Grace)
		defer cancel()
		code, text := wire.CodeNoMethod, "nobody is there to answer"
		if m.Method == "ping" {
			_ = c.write(ctx, wire.AppendResult(nil, m.ID.Of(m.Raw), []byte("{}")))
			return
		}
		_ = c.write(ctx, wire.AppendError(nil, m.ID.Of(m.Raw), code, text, nil))
	}
}

// latest returns the youngest request under way. The caller holds the mutex.
func (c *child) latest() *pending {
	var p *pending
	for n, q := range c.waiting {
		if p == nil || n > p.number {
			p = q
		}
	}
	return p
}
