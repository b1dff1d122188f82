package egress

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"sync"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/gateway"
)

// The kinds of WebSocket frames (RFC 6455, section 5.2).
const (
	opMore   = 0x0
	opText   = 0x1
	opBinary = 0x2
	opClose  = 0x8
	opPing   = 0x9
	opPong   = 0xA

	frameFinal  = 0x80
	frameMasked = 0x80
	maxControl  = 125
)

// message is a whole message, or a control frame.
type message struct {
	op      byte
	payload []byte
}

// messages reads whole messages from one side of a WebSocket.
type messages struct {
	r      *bufio.Reader
	masked bool // what comes from a client must be
	limit  int64

	op   byte // of the message that has begun, 0 if none
	held []byte
}

// next returns the next message or control frame; io.EOF between two.
func (m *messages) next() (message, error) {
	for {
		final, op, payload, err := m.frame()
		switch {
		case err != nil:
			return message{}, err
		case op >= opClose:
			return message{op, payload}, nil
		case op == opMore && m.op == 0, op != opMore && m.op != 0:
			return message{}, &frameError{closeProtocol, "a message is continued that was not begun, or the other way round"}
		case op != opMore:
			m.op, m.held = op, payload
		default:
			m.held = append(m.held, payload...)
		}
		if !final {
			continue
		}
		out := message{m.op, m.held}
		m.op, m.held = 0, nil
		if out.op == opText && !utf8.Valid(out.payload) {
			return message{}, &frameError{closeText, "a text message is not UTF-8"}
		}
		return out, nil
	}
}

// maxBatch is how many messages are decided and recorded in one step at most.
const maxBatch = 64

// batch returns the next message and those after it that have arrived whole
// already. What came before an error is returned with it.
func (m *messages) batch() (out []message, err error) {
	for {
		next, err := m.next()
		if err != nil {
			return out, err
		}
		if out = append(out, next); next.op == opClose || len(out) == maxBatch || !m.arrived() {
			return out, nil
		}
	}
}

// arrived reports whether a frame that ends a message can be read without waiting.
func (m *messages) arrived() bool {
	b, _ := m.r.Peek(m.r.Buffered()) // all of it is there
	if len(b) < 2 || b[0]&frameFinal == 0 {
		return false
	}
	size, head := uint64(b[1]&0x7f), 2
	switch {
	case size == 126 && len(b) >= 4:
		size, head = uint64(binary.BigEndian.Uint16(b[2:])), 4
	case size >= 126:
		return false // more than is buffered, or not here
	}
	if m.masked {
		head += 4
	}
	return uint64(len(b)) >= uint64(head)+size //nolint:gosec // head is small
}

// frame reads one frame, its payload unmasked.
func (m *messages) frame() (final bool, op byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(m.r, head[:]); err != nil {
		return false, 0, nil, err
	}
	op, final = head[0]&0x0f, head[0]&frameFinal != 0
	masked, size := head[1]&frameMasked != 0, int64(head[1]&0x7f)
	control := op >= opClose
	switch {
	case head[0]&0x70 != 0 || op > opPong || op > opBinary && op < opClose:
		return false, 0, nil, &frameError{closeProtocol, "a frame has bits or a kind that nobody agreed on"}
	case masked != m.masked:
		return false, 0, nil, &frameError{closeProtocol, "a frame must be masked by the client and by it alone"}
	case control && (!final || size > maxControl):
		return false, 0, nil, &frameError{closeProtocol, "a control frame is in pieces or too long"}
	}
	if size, err = m.size(size); err != nil {
		return false, 0, nil, err
	}
	if size < 0 || size+int64(len(m.held)) > m.limit {
		return false, 0, nil, &frameError{closeTooBig, "a message is over the limit"}
	}
	var key [4]byte
	if masked {
		if _, err := io.ReadFull(m.r, key[:]); err != nil {
			return false, 0, nil, midway(err)
		}
	}
	if payload, err = read(m.r, size); err != nil {
		return false, 0, nil, midway(err)
	}
	if masked {
		mask(payload, key)
	}
	return final, op, payload, nil
}

func (m *messages) size(short int64) (int64, error) {
	var b [8]byte
	switch short {
	case 126:
		_, err := io.ReadFull(m.r, b[6:])
		return int64(binary.BigEndian.Uint16(b[6:])), midway(err)
	case 127:
		_, err := io.ReadFull(m.r, b[:])
		return int64(binary.BigEndian.Uint64(b[:])), midway(err) //nolint:gosec // negative is refused
	}
	return short, nil
}

// read reads size bytes; a mere announcement gets little memory.
func read(r io.Reader, size int64) ([]byte, error) {
	const step = 64 << 10
	out := make([]byte, 0, min(size, step))
	for int64(len(out)) < size {
		n := min(size-int64(len(out)), step)
		at := len(out)
		out = append(out, make([]byte, n)...)
		if _, err := io.ReadFull(r, out[at:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// midway says that an end within a frame is none.
func midway(err error) error {
	if err == io.EOF { // as io.ReadFull returns it
		return io.ErrUnexpectedEOF
	}
	return err
}

func mask(b []byte, key [4]byte) {
	for i := range b {
		b[i] ^= key[i&3]
	}
}

// appendMessage appends m as one frame, masked with a fresh key if it goes to a
// server.
func appendMessage(b []byte, m message, masked bool) []byte {
	bit := byte(0)
	if masked {
		bit = frameMasked
	}
	b = append(b, frameFinal|m.op)
	switch n := len(m.payload); {
	case n <= maxControl:
		b = append(b, bit|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, bit|126), uint16(n)) //nolint:gosec // n fits
	default:
		b = binary.BigEndian.AppendUint64(append(b, bit|127), uint64(n))
	}
	if !masked {
		return append(b, m.payload...)
	}
	var key [4]byte
	_, _ = rand.Read(key[:]) // never fails (crypto/rand)
	b = append(b, key[:]...)
	at := len(b)
	b = append(b, m.payload...)
	mask(b[at:], key)
	return b
}

// transcript counts, hashes and keeps what a WebSocket carried. It is the
// observer of its call.
type transcript struct {
	limit int

	mu       sync.Mutex
	toUp     tally
	toClient tally
	kept     []byte
	size     int64
}

type tally struct {
	messages int64
	bytes    int64
	digest   hash.Hash
}

func newTranscript(limit int) *transcript {
	return &transcript{limit: limit, toUp: tally{digest: sha256.New()}, toClient: tally{digest: sha256.New()}}
}

// add notes a message in a direction: '>' to the upstream, '<' to the client.
// The digest is over each message with its length before it. Control frames
// are no messages.
func (t *transcript) add(direction byte, m message) {
	if m.op >= opClose {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	to := &t.toUp
	if direction == '<' {
		to = &t.toClient
	}
	to.messages++
	to.bytes += int64(len(m.payload))
	to.digest.Write(binary.BigEndian.AppendUint64([]byte{m.op}, uint64(len(m.payload))))
	to.digest.Write(m.payload)
	if m.op != opText {
		return
	}
	t.size += int64(len(m.payload)) + 3
	if room := t.limit - len(t.kept); room > 3 {
		t.kept = append(append(append(t.kept, direction, ' '), m.payload[:min(len(m.payload), room-3)]...), '\n')
	}
}

// Begin implements gateway.Observer.
func (t *transcript) Begin(int, http.Header) {}

// Chunk implements gateway.Observer: messages are seen whole, by add.
func (t *transcript) Chunk([]byte) {}

type carried struct {
	Messages int64  `json:"messages"`
	Bytes    int64  `json:"bytes"`
	Digest   string `json:"digest"`
}

func (t *tally) carried() carried {
	return carried{t.messages, t.bytes, hex.EncodeToString(t.digest.Sum(nil))}
}

// Done implements gateway.Observer.
func (t *transcript) Done(error) gateway.Seen {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := gateway.Seen{Detail: struct {
		Up     carried `json:"to_upstream"`
		Client carried `json:"to_client"`
	}{t.toUp.carried(), t.toClient.carried()}}
	if t.size > 0 {
		s.Payloads = []audit.Payload{{Name: "messages", Body: append([]byte(nil), t.kept...), Size: t.size}}
	}
	return s
}
