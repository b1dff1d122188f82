package egress

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455 demands it; nothing is protected by it
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
)

const websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455, section 1.3

// handshake is a request for a WebSocket.
type handshake struct {
	key       string
	protocols []string
	seen      *transcript
}

// upgrade reads a request for a WebSocket. Extensions are not passed on: with
// them nobody in between could read a message.
func (x *exchange) upgrade(call *gateway.Call) error {
	asks := token(x.r.Header["Upgrade"], "websocket") && token(x.r.Header["Connection"], "upgrade")
	switch {
	case !asks && !x.op.WebSocket:
		return nil
	case !asks, !x.op.WebSocket, x.r.Method != http.MethodGet, x.r.ProtoMajor != 1, x.r.Header.Get("Sec-Websocket-Version") != "13":
		return errUpgrade
	}
	keys := x.r.Header["Sec-Websocket-Key"]
	if len(keys) != 1 {
		return errUpgrade
	}
	if raw, err := base64.StdEncoding.DecodeString(keys[0]); err != nil || len(raw) != 16 {
		return errUpgrade
	}
	x.ws = &handshake{key: keys[0], seen: newTranscript(gateway.CaptureLimit(x.conn) + gateway.CaptureMargin)}
	for _, v := range x.r.Header["Sec-Websocket-Protocol"] {
		for p := range strings.SplitSeq(v, ",") {
			x.ws.protocols = append(x.ws.protocols, strings.TrimSpace(p))
		}
	}
	call.Request.Upgrade, call.JSONMessages = "websocket", len(x.op.Message) > 0
	call.Request.Header = x.r.Header.Clone()
	call.Request.Header.Del("Sec-Websocket-Extensions")
	call.Observer = x.ws.seen
	return nil
}

// token reports whether a list header holds a token.
func token(values []string, want string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), want) {
				return true
			}
		}
	}
	return false
}

// check reads the upstream's answer to a handshake.
func (h *handshake) check(header http.Header) error {
	sum := sha1.Sum([]byte(h.key + websocketGUID)) //nolint:gosec // as above
	protocol := header.Get("Sec-Websocket-Protocol")
	switch {
	case header.Get("Sec-Websocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		return errors.New("the answer to the WebSocket handshake is not for it")
	case len(header["Sec-Websocket-Extensions"]) > 0:
		return errors.New("the upstream uses a WebSocket extension that nobody asked for")
	case protocol != "" && !slices.Contains(h.protocols, protocol):
		return errors.New("the upstream uses a WebSocket protocol that nobody asked for")
	}
	return nil
}

// upgraded carries messages both ways until one side ends.
func (x *exchange) upgraded(a *gateway.Answer) {
	defer a.Body.Close()
	conn, buf, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.f.o.Logger.Error("a connection could not be taken over", "call", a.Call, "error", err)
		return
	}
	defer conn.Close()
	client := &peer{conn: conn, patience: x.f.o.WriteTimeout}
	if client.begin(a, x.ws) != nil {
		return
	}
	limit := x.f.o.MaxBody
	ended := make(chan struct{})
	go func() { // from the client to the upstream
		defer close(ended)
		if err := x.sends(&messages{r: buf.Reader, masked: true, limit: limit}, a); err != nil {
			client.end(err)
			a.Body.Close()
		}
	}()
	err = x.receives(&messages{r: bufio.NewReader(a.Body), limit: limit}, a, client)
	client.end(err)
	conn.Close()
	<-ended
}

// sends passes on what the client sends, whole, as far as it may go; nil at the end.
func (x *exchange) sends(from *messages, a *gateway.Answer) error {
	for {
		batch, err := from.batch()
		for len(batch) > 0 {
			n, refused := x.send(batch, a)
			if refused != nil {
				return refused
			}
			batch = batch[n:]
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// send passes on the first of batch, as many as may go.
func (x *exchange) send(batch []message, a *gateway.Answer) (int, error) {
	asked := make([]gateway.Message, len(batch))
	for i, m := range batch {
		asked[i] = m.asked()
	}
	n, err := a.Messages.Send(asked)
	if err != nil {
		return 0, err
	}
	var out []byte
	for i, m := range batch[:n] {
		m.payload = asked[i].Body
		x.ws.seen.add('>', m)
		out = appendMessage(out, m, true)
	}
	_, err = a.Upgraded.Write(out)
	return n, err
}

// receives passes on what the upstream sends, in the same way.
func (x *exchange) receives(from *messages, a *gateway.Answer, to io.Writer) error {
	for {
		m, err := from.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		asked := m.asked()
		if err := a.Messages.Receive(&asked); err != nil {
			return err
		}
		m.payload = asked.Body
		x.ws.seen.add('<', m)
		if _, err := to.Write(appendMessage(nil, m, false)); err != nil {
			return err
		}
	}
}

func (m message) asked() gateway.Message {
	return gateway.Message{Text: m.op == opText, Control: m.op >= opClose, Body: m.payload}
}

// peer is the client's side.
type peer struct {
	conn     net.Conn
	patience time.Duration
	told     sync.Once // why it is closed
}

// Write implements io.Writer. A client that takes nothing is not waited for.
func (p *peer) Write(b []byte) (int, error) {
	_ = p.conn.SetWriteDeadline(time.Now().Add(p.patience))
	return p.conn.Write(b)
}

// begin answers the handshake.
func (p *peer) begin(a *gateway.Answer, h *handshake) error {
	_ = p.conn.SetDeadline(time.Time{})            // those of the HTTP server
	sum := sha1.Sum([]byte(h.key + websocketGUID)) //nolint:gosec // as above
	out := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\nX-Countersign-Call: " + a.Call + "\r\n"
	if protocol := a.Header.Get("Sec-Websocket-Protocol"); protocol != "" {
		out += "Sec-WebSocket-Protocol: " + protocol + "\r\n"
	}
	_, err := io.WriteString(p, out+"\r\n")
	return err
}

// The reasons to close a WebSocket (RFC 6455, section 7.4.1).
const (
	closeProtocol = 1002
	closeText     = 1007
	closePolicy   = 1008
	closeTooBig   = 1009
)

// end tells the client why a connection that did not end by itself is closed.
func (p *peer) end(err error) {
	if err == nil {
		return
	}
	code, reason := closePolicy, "the connection was closed"
	if bad, ok := errors.AsType[*frameError](err); ok {
		code, reason = bad.code, bad.reason
	} else if r, ok := errors.AsType[*gateway.Refusal](err); ok && r.Kind != fault.Internal {
		reason = r.Reason
	}
	payload := append([]byte{byte(code >> 8), byte(code)}, reason[:min(len(reason), 120)]...)
	p.told.Do(func() {
		_, _ = p.Write(appendMessage(nil, message{op: opClose, payload: payload}, false)) // it may have left
	})
}

// frameError is a WebSocket that does not follow the protocol.
type frameError struct {
	code   int
	reason string
}

func (e *frameError) Error() string { return fmt.Sprintf("WebSocket: %s", e.reason) }
