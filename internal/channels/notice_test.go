package channels_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/channels"
)

// mailbox is an SMTP server (RFC 5321), as much of one as takes mail.
type mailbox struct {
	net.Listener
	mu   sync.Mutex
	mail []string // envelope recipient, line feed, message
	done sync.WaitGroup
}

func postOffice(t *testing.T) *mailbox {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailbox{Listener: l}
	m.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.done.Go(func() { m.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); m.done.Wait() })
	return m
}

func (m *mailbox) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewScanner(c)
	say := func(line string) { fmt.Fprintf(c, "%s\r\n", line) }
	say("220 ready")
	to := ""
	for in.Scan() {
		switch verb := strings.ToUpper(in.Text()); {
		case strings.HasPrefix(verb, "EHLO"), strings.HasPrefix(verb, "HELO"), strings.HasPrefix(verb, "MAIL"):
			say("250 fine")
		case strings.HasPrefix(verb, "RCPT"):
			to = in.Text()[len("RCPT TO:"):]
			say("250 fine")
		case verb == "DATA":
			say("354 go on")
			var text strings.Builder
			for in.Scan() && in.Text() != "." {
				text.WriteString(in.Text() + "\n")
			}
			m.mu.Lock()
			m.mail = append(m.mail, to+"\n"+text.String())
			m.mu.Unlock()
			say("250 taken")
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("500 what?")
		}
	}
}

func (m *mailbox) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string{}, m.mail...)
}

// E-mail reaches whom the news is for, says nothing of contents, and says
// where to sign in.
func TestMailReachesThePeopleItIsFor(t *testing.T) {
	each(t, func(w *world) {
		m := postOffice(w.t)
		w.add("mail", channels.Spec{Kind: "notice", Secret: "smtp", People: true},
			map[string]string{"smtp": "smtp://" + m.Addr().String() + "/?from=countersign@firm.example&to=nobody@firm.example&starttls=no"})
		id := w.hold(`{"cents":500000,"to":"Nordwind\r\nBcc: evil@evil.example"}`, "finance")
		w.until(func() bool { return len(m.all()) == 1 })
		got := m.all()[0]
		if !strings.HasPrefix(got, "<fiona@firm.example>") || !strings.Contains(got, "/approvals/"+id) || !strings.Contains(got, "payer wants to call ledger/pay") || strings.Contains(got, "Nordwind") || strings.Contains(got, "evil") {
			t.Errorf("%s", got)
		}
		w.must(w.approvals.Comment(ctx, w.by("fiona"), id, "is this right?", true))
		w.until(func() bool { return len(m.all()) == 2 })
		if got := m.all()[1]; !strings.HasPrefix(got, "<olga@firm.example>") || !strings.Contains(got, "fiona asks about "+id) {
			t.Errorf("%s", got)
		}
		_, err := w.approvals.Override(ctx, w.by("root"), id, "the bank closes")
		w.must(err)
		w.until(func() bool { return len(m.all()) == 4 })
		if got := m.all()[2] + m.all()[3]; !strings.Contains(got, "<fiona@") || !strings.Contains(got, "<olga@") || !strings.Contains(got, "root broke the glass") {
			t.Errorf("%s", got)
		}
		if out, err := w.Test(ctx, "root", "mail"); err != nil || !out.OK || !strings.HasPrefix(m.all()[4], "<root@firm.example>") {
			t.Errorf("%+v %v", out, err)
		}
		m.Listener.Close()
		if out, err := w.Test(ctx, "root", "mail"); err != nil || out.OK || strings.Contains(out.Error, "smtp://") {
			t.Errorf("%+v %v", out, err)
		}
	})
}

// A service that is no way to people is refused, without showing its URL.
func TestWhatIsNoNotice(t *testing.T) {
	each(t, func(w *world) {
		for name, url := range map[string]string{"generic": "generic://evil.example/hook?x=secret1", "logger": "logger://x-x-x-x", "nothing": "no-url-at-all", "unknown": "pigeon://coop.example"} {
			w.add(name, channels.Spec{Kind: "notice", Secret: name}, map[string]string{name: url})
			out, err := w.Test(ctx, "root", name)
			if err != nil || out.OK || strings.Contains(out.Error, "secret1") {
				t.Errorf("%s: %+v %v", name, out, err)
			}
		}
	})
}
