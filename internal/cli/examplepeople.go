package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/countersign/countersign/client"
	"github.com/countersign/countersign/internal/example"
)

// behalfScope is what a colleague lets the assistant do for them: mail cannot be
// taken back, so it is named.
const behalfScope = "read write irreversible"

// intranet is the program in which colleagues meet the knowledge assistant. It
// is offered to everybody, so everybody may let the assistant act for them.
const intranet = "https://intranet.hanse-trade.example/assistant.json"

// furnish puts the handbook in its place. The first time it also opens the
// intranet and lets detection act.
func (s *showcase) furnish(ctx context.Context, handbook string) error {
	docs, err := readDocuments(handbook, client.Document{})
	if err != nil {
		return err
	}
	if _, err := s.c.PutDocuments(ctx, example.Handbook, docs); err != nil {
		return fmt.Errorf("the handbook could not be put in its place: %w", err)
	}
	programs, err := s.c.OAuthClients(ctx)
	if err != nil || slices.ContainsFunc(programs, func(p client.OAuthClient) bool { return p.ClientID == intranet }) {
		return err
	}
	if _, err = s.c.AddOAuthClient(ctx, client.OAuthClient{ClientID: intranet, Name: "Intranet", Agent: example.KnowledgeAssistant}); err != nil {
		return err
	}
	for _, rule := range exampleRules {
		if _, err := s.c.SetDetectionMode(ctx, rule, "enforce"); err != nil {
			return err
		}
	}
	return nil
}

// as signs in as a colleague, with the password that is kept beside the
// example's other credentials.
func (s *showcase) as(ctx context.Context, user string) (*client.Client, error) {
	if c := s.people[user]; c != nil {
		return c, nil
	}
	password, known := s.known.Passwords[user]
	var session client.Session
	var err error
	if known {
		session, err = client.New(s.c.URL(), "").Login(ctx, user, password)
	}
	if e, ok := errors.AsType[*client.Error](err); !known || ok && e.Status == 401 {
		session, err = s.setPassword(ctx, user)
	}
	if err != nil {
		return nil, err
	}
	c := client.New(s.c.URL(), session.Token).WithReason("the example business")
	s.people[user] = c
	return c, nil
}

// setPassword gives a colleague a password, and signs in with it.
func (s *showcase) setPassword(ctx context.Context, user string) (client.Session, error) {
	password := user + "-" + rand.Text()
	if err := s.c.SetPassword(ctx, user, "", password); err != nil {
		return client.Session{}, fmt.Errorf("the example's %s has no way to sign in: %w", user, err)
	}
	if s.known.Passwords == nil {
		s.known.Passwords = map[string]string{}
	}
	s.known.Passwords[user] = password
	if err := s.business.save(); err != nil {
		return client.Session{}, err
	}
	return client.New(s.c.URL(), "").Login(ctx, user, password)
}
