package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

// verifier returns a verifier and its challenge (RFC 7636, S256).
func verifier() (verifier, challenge string) {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	verifier = base64.RawURLEncoding.EncodeToString(b)
	sum := sha256.Sum256([]byte(verifier))
	return verifier, base64.RawURLEncoding.EncodeToString(sum[:])
}

// errNoAnswer reports that the browser did not come back.
var errNoAnswer = errors.New("the browser did not come back in time; begin again, or use --device on a machine without a browser")

// browserLogin signs in at the identity provider: in the person's browser, which
// comes back to a port of this machine that is open for that long (RFC 8252).
func (a *app) browserLogin(ctx context.Context, c *client.Client, open bool) (client.Session, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return client.Session{}, fmt.Errorf("no port of this machine is free for the browser to come back to: %w", err)
	}
	secret, _ := verifier() // the path, which only our own sign-in knows
	path := "/" + secret
	proof, challenge := verifier()
	begun, err := c.StartLogin(ctx, "http://"+l.Addr().String()+path, challenge)
	if err != nil {
		l.Close()
		return client.Session{}, err
	}
	came := make(chan http.Request, 1)
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if r.URL.Path != path {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprintln(w, "You can close this window and go back to your terminal.")
		select {
		case came <- *r:
		default:
		}
	})}
	go func() { _ = s.Serve(l) }() // ends with Shutdown below
	defer func() {
		done, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = s.Shutdown(done) // lets the browser have its page
	}()
	fmt.Fprintf(a.stderr, "sign in with your browser: %s\n", inert(begun.URL, 0))
	if open {
		openBrowser(begun.URL)
	}
	var r http.Request
	wait, cancel := context.WithDeadline(ctx, begun.Expires)
	defer cancel()
	err = a.waiting("waiting for the browser", func() error {
		select {
		case <-wait.Done():
			return errNoAnswer
		case r = <-came:
			return nil
		}
	})
	if err != nil {
		return client.Session{}, err
	}
	q := r.URL.Query()
	if q.Get("ticket") == "" {
		return client.Session{}, fmt.Errorf("you were not signed in: %s", inert(q.Get("error_description"), 300))
	}
	return c.FinishLogin(ctx, q.Get("ticket"), proof)
}

// openBrowser tries to open a page; the person can do it themselves, so that it
// fails is no error.
func openBrowser(url string) {
	name, args := os.Getenv("BROWSER"), []string{url}
	if name == "" {
		switch runtime.GOOS {
		case "darwin":
			name = "open"
		case "windows":
			name, args = "rundll32", []string{"url.dll,FileProtocolHandler", url}
		default:
			name = "xdg-open"
		}
	}
	cmd := exec.Command(name, args...)
	if cmd.Start() == nil {
		go func() { _ = cmd.Wait() }() // whatever becomes of it
	}
}

// deviceLogin signs in on another device (RFC 8628).
func (a *app) deviceLogin(ctx context.Context, c *client.Client) (client.Session, error) {
	proof, challenge := verifier()
	d, err := c.StartDevice(ctx, challenge)
	if err != nil {
		return client.Session{}, err
	}
	fmt.Fprintf(a.stderr, "on any device, open %s and enter the code %s\n", inert(d.At, 300), inert(d.UserCode, 60))
	for time.Now().Before(d.Expires) {
		s, err := c.FinishDevice(ctx, d.Handle, proof)
		var e *client.Error
		if errors.As(err, &e) && e.Code == "authorization_pending" {
			continue // the server waited before it asked
		}
		return s, err
	}
	return client.Session{}, errors.New("nobody approved the sign-in in time; begin again")
}

func (a *app) userSessions() *cobra.Command {
	cmd := &cobra.Command{Use: "sessions [NAME]", Short: "List where you are signed in, or for administrators another user", Args: operands("[NAME]"), ValidArgsFunction: a.completeFirst(userNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		user := ""
		if len(args) > 0 {
			user = args[0]
		}
		all, err := c.Tokens(ctx, user)
		if err != nil {
			return err
		}
		live := []client.Token{}
		for _, t := range all {
			if t.Kind == "session" && t.Status == "active" {
				live = append(live, t)
			}
		}
		return list(a, live, "no sessions",
			column[client.Token]{"ID", func(t client.Token) string { return t.ID }, nil},
			column[client.Token]{"SIGNED IN", func(t client.Token) string { return ago(t.Created) }, nil},
			column[client.Token]{"EXPIRES", func(t client.Token) string { return until(t.Expires) }, nil},
			column[client.Token]{"LAST USED", func(t client.Token) string { return ago(t.LastUsed) }, nil},
			column[client.Token]{"", func(t client.Token) string {
				if t.Present {
					return "this one"
				}
				return ""
			}, nil})
	})
	return cmd
}

func (a *app) userSignOut() *cobra.Command {
	var all, yes bool
	cmd := &cobra.Command{Use: "sign-out [NAME]", Short: "End every session, everywhere: your own, or for administrators another user's", Args: operands("[NAME]"), ValidArgsFunction: a.completeFirst(userNames),
		Example: "  countersign user sign-out fiona --all --reason 'laptop stolen'"}
	cmd.Flags().BoolVar(&all, "all", false, "end API tokens too")
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var user string
		if len(args) > 0 {
			user = args[0]
		} else {
			me, err := c.Me(ctx)
			if err != nil {
				return err
			}
			user = me.Name
		}
		if err := a.confirm(yes, "Sign %s out everywhere?", user); err != nil {
			return err
		}
		n, err := c.SignOut(ctx, user, all)
		if err != nil {
			return err
		}
		return a.did(struct {
			ID    string `json:"id"`
			Ended int    `json:"ended"`
		}{user, n}, "%s is signed out: %d ended", user, n)
	})
	return cmd
}
