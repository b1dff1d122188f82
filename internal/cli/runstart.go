package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

// began is a run that may begin: its credential, what it may use, and how it ends.
type began struct {
	run   client.RunToken
	doors []client.Door
	end   func(context.Context) error
	by    string // how it was proved
}

// begin starts a run in the way the person asks for, or in the first that the
// environment offers.
func (a *app) begin(ctx context.Context, f runFlags) (*client.Client, began, error) {
	how := f.identity
	if !slices.Contains(identities, how) {
		return nil, began{}, usageError{fmt.Errorf("--identity %s: it is one of %s", how, strings.Join(identities, ", "))}
	}
	if f.behalf != "" {
		if how != "auto" && how != byPerson {
			return nil, began{}, usageError{errors.New("--on-behalf-of is for a person who signed in: it takes no other --identity")}
		}
		c, err := a.client()
		if err != nil {
			return nil, began{}, err
		}
		b, err := onBehalf(ctx, c, f)
		return c, b, err
	}
	if how == "auto" {
		how = proofAt()
	}
	if how == byPerson || how == "" {
		c, err := a.client()
		if err == nil {
			b, err := asPerson(ctx, c, f)
			return c, b, err
		}
		if how == byPerson || !errors.Is(err, client.ErrNotSignedIn) || a.server() == "" {
			return nil, began{}, err
		}
		how = byEnrolment
	}
	base := a.server()
	if base == "" {
		return nil, began{}, errors.New("which server? Set COUNTERSIGN_URL or --url")
	}
	c := client.New(base, "")
	if how == byEnrolment {
		b, err := a.asEnrolled(ctx, c, f)
		return c, b, err
	}
	token, err := proof(ctx, how, c.URL())
	if err != nil {
		return nil, began{}, err
	}
	run, err := c.StartRunWithProof(ctx, f.agent, token, f.ttl)
	if err != nil {
		return nil, began{}, fmt.Errorf("the proof of identity (%s) did not let this program in as %s: %w", how, f.agent, err)
	}
	return c, proved(c, run, how), nil
}

func proved(c *client.Client, run client.ProvedRun, how string) began {
	return began{run: run.RunToken, doors: run.Doors, by: how, end: func(ctx context.Context) error { return c.GiveBack(ctx, run.Token) }}
}

// server returns the URL of the server that is meant, "" if nobody said.
func (a *app) server() string {
	base := a.url
	if base == "" {
		base = os.Getenv("COUNTERSIGN_URL")
	}
	if base == "" {
		if s, err := client.Discover(); err == nil {
			base = s.URL
		}
	}
	return strings.TrimRight(base, "/")
}

// asPerson starts a run with the token of the person who runs the command.
func asPerson(ctx context.Context, c *client.Client, f runFlags) (began, error) {
	run, err := c.StartRun(ctx, f.agent, f.ttl)
	if err != nil {
		return began{}, err
	}
	if err := allow(ctx, c, run.Run, f.may); err != nil {
		return began{}, errors.Join(err, c.EndRun(context.WithoutCancel(ctx), run.Run))
	}
	all, err := c.Connections(ctx)
	if err != nil {
		return began{}, err
	}
	b := began{run: run, by: byPerson, end: func(ctx context.Context) error { return c.EndRun(ctx, run.Run) }}
	for _, x := range all {
		b.doors = append(b.doors, client.Door{Name: x.Name, Kind: x.Kind, Dialect: x.Dialect})
	}
	return b, nil
}

// allow says what a run may do, before its program begins.
func allow(ctx context.Context, c *client.Client, run string, may []string) error {
	var scopes []client.Scope
	for _, m := range may {
		s, err := scopeOf(strings.Fields(m))
		if err != nil {
			return err
		}
		scopes = append(scopes, s)
	}
	if len(scopes) == 0 {
		return nil
	}
	_, err := c.AllowRun(ctx, run, scopes...)
	return err
}

// onBehalf starts a run in which the agent acts for the person who runs the
// command.
func onBehalf(ctx context.Context, c *client.Client, f runFlags) (began, error) {
	x, err := c.Exchange(ctx, client.Exchange{Agent: f.agent, Scope: f.scope, Run: true, Life: f.ttl})
	if err != nil {
		return began{}, err
	}
	// Who lets an agent act for them need not answer for it, so they may not end
	// its runs; whoever holds a token may give it back.
	end := func(ctx context.Context) error { return c.GiveBack(ctx, x.Token) }
	if f.behalf != "me" && x.Chain[0] != "user:"+f.behalf {
		if err := end(ctx); err != nil {
			return began{}, err
		}
		return began{}, fmt.Errorf("you are %s: an agent acts for you, not for %s", strings.TrimPrefix(x.Chain[0], "user:"), f.behalf)
	}
	return began{run: client.RunToken{Token: x.Token, Run: x.Run, Agent: f.agent, Expires: x.Expires}, doors: x.Doors, by: byPerson, end: end}, nil
}

// keyFile is where this machine keeps its key for an agent of a server.
func keyFile(base, agent string) (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("%q is no URL of a server", base)
	}
	name := strings.NewReplacer(":", "_", "[", "_", "]", "_", "/", "_").Replace(u.Host + "-" + agent)
	return filepath.Join(dir, "countersign", "keys", name+".json"), nil
}

// asEnrolled starts a run with the key of this machine, which a person approves
// the first time.
func (a *app) asEnrolled(ctx context.Context, c *client.Client, f runFlags) (began, error) {
	file, err := keyFile(c.URL(), f.agent)
	if err != nil {
		return began{}, err
	}
	key, err := client.ReadAgentKey(file)
	if err == nil && key.URL == c.URL() && key.Agent == f.agent {
		run, err := c.StartRunWithKey(ctx, key, f.ttl)
		if e, ok := errors.AsType[*client.OAuthError](err); !ok || e.Code != "invalid_client" {
			return proved(c, run, byEnrolment), err
		}
		a.warn("the key of this machine is no longer good; enrolling again")
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return began{}, err
	}
	return a.enrol(ctx, c, f, file)
}

func (a *app) enrol(ctx context.Context, c *client.Client, f runFlags, file string) (began, error) {
	key, err := client.NewAgentKey(c.URL(), f.agent)
	if err != nil {
		return began{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	codes, err := c.Enrol(ctx, key, host)
	if err != nil {
		return began{}, err
	}
	fmt.Fprintf(a.stderr, "This machine (%s) asks to run as the agent %s. Whoever answers for it approves with:\n\n  countersign agent enrol approve %s --url %s\n\nThe code is good for %s.\n",
		inert(host, 0), f.agent, codes.User, c.URL(), time.Duration(codes.Expires)*time.Second)
	var run client.ProvedRun
	err = a.waiting("waiting for approval of "+codes.User, func() error {
		run, err = c.AwaitEnrolment(ctx, key, codes, f.ttl)
		return err
	})
	if err != nil {
		return began{}, err
	}
	if err := key.Write(file); err != nil {
		a.warn("the key could not be kept, so the next run asks again: %v", err)
	}
	return proved(c, run, byEnrolment), nil
}
