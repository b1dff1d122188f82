package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) tokenServiceCommand() *cobra.Command {
	return group("token", "Exchange tokens; see and rotate the keys that sign them", a.tokenExchange(), a.signingKeysCommand())
}

func (a *app) tokenExchange() *cobra.Command {
	var x client.Exchange
	var subject, kind, key string
	cmd := &cobra.Command{Use: "exchange --agent AGENT --resource PATH", Short: "Get a token with which an agent acts on behalf of somebody (RFC 8693)", Args: operands(),
		Long: `Exchanges a token for one with which AGENT acts on behalf of its holder: for you, if no subject is given and you answer for the agent;
for the agent whose token it is; or for a user whose ID token of a trusted issuer it is (then the agent proves itself with --key-file).
Scope, resources and lifetime only shrink on the way. The chain is printed: who acts for whom.`,
		Example: "  countersign token exchange --agent invoice-checker --resource /mcp/ledger --scope read\n" +
			"  countersign token exchange --agent invoice-checker --resource /mcp/ledger --subject-file id.jwt --subject-type id_token --key-file agent.json"}
	f := cmd.Flags()
	f.StringVar(&x.Agent, "agent", "", "the agent that acts")
	f.StringArrayVar(&x.Resources, "resource", nil, "what the token is for: /mcp, /mcp/NAME, /llm/NAME, or the whole URL (repeatable)")
	f.StringVar(&x.Scope, "scope", "", "effects and tools (default for a user: read write)")
	f.StringVar(&subject, "subject-file", "", "file with the token of who is acted for, - for standard input (default: your own token)")
	f.StringVar(&kind, "subject-type", "access_token", "what the subject is: access_token of Countersign, or id_token of a trusted issuer")
	fixed(cmd, "subject-type", "access_token", "id_token")
	f.StringVar(&key, "key-file", "", "file with the agent's private key, as countersign run keeps it")
	a.completeFlag(cmd, "agent", agentNames)
	for _, flag := range []string{"agent", "resource"} {
		_ = cmd.MarkFlagRequired(flag)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.exchanger(&x, subject, kind, key)
		if err != nil {
			return err
		}
		made, err := c.Exchange(cmd.Context(), x)
		if err != nil {
			return err
		}
		return a.shownOnce(made, made.Token, "%s, scope %s, expires %s:", strings.Join(made.Chain, " -> "), made.Scope, until(made.Expires))
	}
	return cmd
}

// exchanger fills in an exchange and returns the client to make it with: the
// person's own, or one of nobody when the subject is given.
func (a *app) exchanger(x *client.Exchange, subject, kind, key string) (c *client.Client, err error) {
	switch {
	case kind == "id_token":
		x.SubjectType = client.SubjectIDToken
	case kind != "access_token":
		return nil, usageError{fmt.Errorf("--subject-type %s: it is access_token or id_token", kind)}
	}
	if subject == "" {
		if c, err = a.client(); err != nil {
			return nil, err
		}
	} else {
		b, err := readBounded(subject)
		if err != nil {
			return nil, err
		}
		if x.Subject = strings.TrimSpace(string(b)); x.Subject == "" {
			return nil, fmt.Errorf("%s holds no token", subject)
		}
		base := a.server()
		if base == "" {
			return nil, errors.New("which server? Set COUNTERSIGN_URL or --url")
		}
		c = client.New(base, "")
	}
	if key != "" {
		k, err := client.ReadAgentKey(key)
		if err != nil {
			return nil, err
		}
		if k.Agent != x.Agent {
			return nil, fmt.Errorf("the key in %s is that of the agent %s", key, k.Agent)
		}
		x.Key = &k
	}
	for i, r := range x.Resources {
		if strings.HasPrefix(r, "/") {
			x.Resources[i] = c.URL() + r
		}
	}
	return c, nil
}

func (a *app) signingKeysCommand() *cobra.Command {
	return group("keys", "Keys that sign access tokens (published at /oauth2/jwks)", a.signingList(), a.signingRotate(), a.signingRetire())
}

func signingNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.SigningKeys(ctx)
	return namesOf(l, err, func(k client.SigningKey) string { return k.ID })
}

func (a *app) signingList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List signing keys, those that are gone for a month included", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.SigningKeys(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no signing keys",
			column[client.SigningKey]{"ID", func(k client.SigningKey) string { return k.ID }, nil},
			column[client.SigningKey]{"STATUS", func(k client.SigningKey) string { return k.Status }, func(k client.SigningKey) string {
				return map[string]string{"signing": green, "waiting": yellow, "gone": dim}[k.Status]
			}},
			column[client.SigningKey]{"AGE", func(k client.SigningKey) string { return ago(k.Created) }, nil},
			column[client.SigningKey]{"SIGNS", func(k client.SigningKey) string {
				if k.Status == "waiting" {
					return until(k.Starts)
				}
				return ago(k.Starts)
			}, nil},
			column[client.SigningKey]{"GOOD UNTIL", func(k client.SigningKey) string {
				if k.Status == "gone" {
					return ago(k.Gone)
				}
				return until(k.Gone)
			}, nil})
	})
	return cmd
}

func (a *app) signingRotate() *cobra.Command {
	var atOnce, yes bool
	cmd := &cobra.Command{Use: "rotate --reason WHY", Short: "Make the next signing key", Args: operands(),
		Long: `Makes a new key and publishes it. It signs after an hour, so that whoever caches the keys can follow; what the old one signed stays
good. Keys are rotated every 30 days without this.

With --at-once, for a key that leaked, the new key signs now, and the old one and everything it signed ends on every replica:
agents that prove themselves get new tokens, people consent again.`}
	cmd.Flags().BoolVar(&atOnce, "at-once", false, "end the present key and everything it signed now")
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		if atOnce {
			if err := a.confirm(yes, "End the signing key and every access token now?"); err != nil {
				return err
			}
		}
		k, err := c.RotateSigningKey(ctx, atOnce)
		if err != nil {
			return err
		}
		if atOnce {
			return a.did(k, "%s signs; what was signed before is good no more", k.ID)
		}
		return a.did(k, "%s is published, and signs %s", k.ID, until(k.Starts))
	})
	return cmd
}

func (a *app) signingRetire() *cobra.Command {
	cmd := &cobra.Command{Use: "retire KEY --reason WHY", Short: "End a key that does not sign, and everything it signed, now", Args: operands("KEY"), ValidArgsFunction: a.completeFirst(signingNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.RetireSigningKey(ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "%s is gone, with everything it signed", args[0])
	})
	return cmd
}
