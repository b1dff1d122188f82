package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/test/passkey"
)

// browsers are those of the people of a script, each with the passkeys made in it.
type browsers map[string]*passkey.Authenticator

type browserKey struct{}

// withPasskey does what a person's browser does with a passkey: registers one, or
// approves a request with it. The person signs in first, as on a page.
func withPasskey(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: passkey PERSON PASSWORDFILE register NAME | approve ID")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := client.New(ts.Getenv("URL"), "")
	session, err := c.Login(ctx, args[0], strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(err)
	c = client.New(ts.Getenv("URL"), session.Token).WithReason("it is right")
	has := ts.Value(browserKey{}).(browsers)
	said := ""
	if args[2] == "register" {
		said, err = registers(ctx, c, has, args[0], args[3])
	} else {
		said, err = approves(ctx, c, has[args[0]], args[3])
	}
	if err != nil {
		fmt.Fprintln(ts.Stderr(), err)
	}
	fmt.Fprintln(ts.Stdout(), said)
	if (err != nil) != neg {
		ts.Fatalf("passkey %s: %v", strings.Join(args, " "), err)
	}
}

func registers(ctx context.Context, c *client.Client, has browsers, person, name string) (string, error) {
	r, err := c.StartPasskey(ctx)
	if err != nil {
		return "", err
	}
	challenge, err := base64.RawURLEncoding.DecodeString(r.Challenge)
	if err != nil {
		return "", err
	}
	has[person] = passkey.New()
	p, err := c.AddPasskey(ctx, name, string(has[person].Make(challenge, passkey.Signing{RP: r.RP, Origin: r.Origin, Flags: 5})))
	return p.ID, err
}

func approves(ctx context.Context, c *client.Client, with *passkey.Authenticator, id string) (string, error) {
	ask, err := c.ApprovalChallenge(ctx, id, "approve")
	if err != nil {
		return "", err
	}
	challenge, err := base64.RawURLEncoding.DecodeString(ask.Challenge)
	if err != nil {
		return "", err
	}
	r, err := c.DecideApproval(ctx, id, "approve", string(with.Sign(challenge, passkey.Signing{RP: ask.RP, Origin: ask.Origin, Flags: 5})))
	return r.State, err
}
