package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) trustCommand() *cobra.Command {
	return group("trust", "Trust issuers (GitHub Actions, Kubernetes, SPIFFE, OIDC) to say who an agent is",
		a.trustAdd(), a.trustList(), a.trustShow(),
		a.remove("remove NAME", "Stop trusting, and end what was had by it", "trust rule", "Every token and run that was had by it ends.", trustNames, (*client.Client).DeleteTrust))
}

func trustNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.TrustRules(ctx)
	return namesOf(l, err, func(r client.Trust) string { return r.Name })
}

func (a *app) trustAdd() *cobra.Command {
	var spec client.TrustSpec
	var claims []string
	var jwks, ca string
	cmd := &cobra.Command{Use: "add NAME --agent AGENT --issuer URL --subject SUBJECT", Short: "Trust an issuer's tokens about one subject", Args: operands("NAME"),
		Long: `Trusts tokens of exactly this issuer, for this server (or --audience), about exactly this subject: whoever shows one is the agent.
A * in the subject stands for any text, and is refused unless --wildcard says why. Adding a rule of the same name replaces it, and
ends what was had by the old one.`,
		Example: `  countersign agent trust add release-ci --agent release-bot \
      --issuer https://token.actions.githubusercontent.com --subject repo:acme/shop:environment:production
  countersign agent trust add pods --agent support-assistant \
      --issuer https://oidc.eks.eu-west-1.amazonaws.com/id/ABC --subject system:serviceaccount:support:assistant`}
	f := cmd.Flags()
	f.StringVar(&spec.Agent, "agent", "", "the agent that the subject is")
	f.StringVar(&spec.Issuer, "issuer", "", "as it stands in iss; spiffe://TRUST-DOMAIN for JWT-SVIDs")
	f.StringVar(&spec.Subject, "subject", "", "exactly as it stands in sub")
	f.StringVar(&spec.Audience, "audience", "", "as it stands in aud (default: this server's URL)")
	f.StringVar(&spec.Wildcard, "wildcard", "", "why * in the subject may stand for any text")
	f.StringVar(&spec.User, "user", "", "the subject is this user, and the agent may act on their behalf (token exchange)")
	f.StringArrayVar(&claims, "claim", nil, "NAME=VALUE that must be so too (repeatable)")
	f.StringVar(&jwks, "jwks-file", "", "file with the issuer's keys, if it cannot be asked")
	f.StringVar(&spec.JWKSURL, "jwks-url", "", "URL of the issuer's keys, if discovery does not tell")
	f.StringVar(&ca, "ca-file", "", "file with the certificates to trust when asking the issuer")
	f.BoolVar(&spec.AllowPrivate, "allow-private", false, "the issuer may have a private address")
	f.StringVar(&spec.RunLife, "run-life", "", "longest life of a run (default 1h, at most 12h)")
	a.completeFlag(cmd, "agent", agentNames)
	for _, flag := range []string{"agent", "issuer", "subject"} {
		_ = cmd.MarkFlagRequired(flag)
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var err error
		if spec.Claims, err = labels(claims); err != nil {
			return err
		}
		for file, to := range map[string]*string{jwks: &spec.JWKS, ca: &spec.CA} {
			if file == "" {
				continue
			}
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			*to = string(b)
		}
		r, err := c.PutTrust(ctx, args[0], spec)
		if err != nil {
			return err
		}
		if spec.User != "" {
			return a.did(r, "agent %s may act on behalf of %s with their token of %s", r.Agent, r.User, r.Issuer)
		}
		return a.did(r, "%s is agent %s when %s says so; in its environment: countersign run --agent %s -- COMMAND", r.Subject, r.Agent, r.Issuer, r.Agent)
	})
	return cmd
}

func (a *app) trustList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List trust rules", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.TrustRules(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no issuer is trusted: countersign agent trust add",
			column[client.Trust]{"NAME", func(r client.Trust) string { return r.Name }, func(client.Trust) string { return bold }},
			column[client.Trust]{"AGENT", func(r client.Trust) string { return r.Agent }, nil},
			column[client.Trust]{"ISSUER", func(r client.Trust) string { return r.Issuer }, nil},
			column[client.Trust]{"SUBJECT", func(r client.Trust) string { return r.Subject }, nil},
			column[client.Trust]{"LAST USED", func(r client.Trust) string { return ago(r.LastUsed) }, nil})
	})
	return cmd
}

func (a *app) trustShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a trust rule", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(trustNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		r, err := c.TrustRule(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(r, row("name", r.Name), row("id", r.ID), row("agent", r.Agent), row("issuer", r.Issuer), row("audience", r.Audience), row("subject", r.Subject),
			row("wildcard", r.Wildcard), row("user", r.User), row("claims", pairs(r.Claims)), row("keys at", r.JWKSURL), row("keys given", r.JWKS), row("run life", r.RunLife), row("created", ago(r.Created)), row("last used", ago(r.LastUsed)))
	})
	return cmd
}

func (a *app) clientKeyCommand() *cobra.Command {
	return group("client-key", "Public keys by which an agent proves itself (private_key_jwt)", a.clientKeyAdd(), a.clientKeyList(), a.clientKeyRevoke())
}

func (a *app) clientKeyAdd() *cobra.Command {
	var spec client.ClientKeySpec
	var file string
	cmd := &cobra.Command{Use: "add AGENT --jwk-file FILE", Short: "Register a public key", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames),
		Example: "  countersign agent client-key add invoice-checker --jwk-file public.jwk --label 'payment server'"}
	f := cmd.Flags()
	f.StringVar(&file, "jwk-file", "", "file with the public key as a JWK")
	f.StringVar(&spec.JWKSURL, "jwks-url", "", "or the https URL of a JWKS")
	f.StringVar(&spec.Label, "label", "", "what it is for")
	f.StringVar(&spec.ExpiresIn, "expires-in", "", "such as 30d (default 90d, at most 365d)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if file != "" {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			spec.JWK = b
		}
		k, err := c.AddClientKey(ctx, args[0], spec)
		if err != nil {
			return err
		}
		return a.did(k, "key %s of agent %s registered, expires %s", k.ID, k.Agent, until(k.Expires))
	})
	return cmd
}

func (a *app) clientKeyList() *cobra.Command {
	cmd := &cobra.Command{Use: "list AGENT", Short: "List an agent's public keys, dead ones included", Args: operands("AGENT"), ValidArgsFunction: a.completeFirst(agentNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		all, err := c.ClientKeys(ctx, args[0])
		if err != nil {
			return err
		}
		return list(a, all, "no public keys: countersign agent client-key add "+args[0],
			column[client.ClientKey]{"ID", func(k client.ClientKey) string { return k.ID }, nil},
			column[client.ClientKey]{"LABEL", func(k client.ClientKey) string { return k.Label }, nil},
			column[client.ClientKey]{"STATUS", func(k client.ClientKey) string { return k.Status }, func(k client.ClientKey) string { return statusColour(k.Status) }},
			column[client.ClientKey]{"AGE", func(k client.ClientKey) string { return ago(k.Created) }, nil},
			column[client.ClientKey]{"EXPIRES", func(k client.ClientKey) string { return until(k.Expires) }, nil},
			column[client.ClientKey]{"LAST USED", func(k client.ClientKey) string { return ago(k.LastUsed) }, nil})
	})
	return cmd
}

func (a *app) clientKeyRevoke() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "revoke AGENT KEY", Short: "Revoke a public key and end what was had with it", Args: operands("AGENT", "KEY")}
	yesFlag(cmd, &yes)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := a.confirm(yes, "Revoke key %s of agent %s? Its tokens and runs end at once.", args[1], args[0]); err != nil {
			return err
		}
		if err := c.RevokeClientKey(ctx, args[0], args[1]); err != nil {
			return err
		}
		return a.did(gone{args[1], true}, "key %s revoked", args[1])
	})
	return cmd
}

func (a *app) enrolCommand() *cobra.Command {
	return group("enrol", "Machines that ask to be let in as an agent", a.enrolDecide("approve", true), a.enrolDecide("deny", false), a.enrolList())
}

func (a *app) enrolDecide(verb string, approve bool) *cobra.Command {
	var agent string
	short, done := "Let the machine that shows CODE in", "may run as"
	if !approve {
		short, done = "Turn the machine that shows CODE away", "was turned away as"
	}
	cmd := &cobra.Command{Use: verb + " CODE", Short: short, Args: operands("CODE"), Example: "  countersign agent enrol " + verb + " BCDF-GHJK --reason 'the new build machine'"}
	cmd.Flags().StringVar(&agent, "agent", "", "refuse to answer if it asks to be another agent")
	a.completeFlag(cmd, "agent", agentNames)
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		e, err := c.Decide(ctx, args[0], agent, approve)
		if err != nil {
			return err
		}
		return a.did(e, "%s (%s, key %.16s…) %s %s", e.Host, e.Remote, e.Thumbprint, done, e.Agent)
	})
	return cmd
}

func (a *app) enrolList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the enrolments of the last day", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Enrolments(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no machine asked in the last day",
			column[client.Enrolment]{"AGENT", func(e client.Enrolment) string { return e.Agent }, nil},
			column[client.Enrolment]{"HOST", func(e client.Enrolment) string { return e.Host }, nil},
			column[client.Enrolment]{"FROM", func(e client.Enrolment) string { return e.Remote }, nil},
			column[client.Enrolment]{"STATE", func(e client.Enrolment) string { return e.State }, nil},
			column[client.Enrolment]{"BY", func(e client.Enrolment) string { return e.DecidedBy }, nil},
			column[client.Enrolment]{"ASKED", func(e client.Enrolment) string { return ago(e.Created) }, nil})
	})
	return cmd
}

func (a *app) programCommand() *cobra.Command {
	return group("program", "Programs (MCP clients) that people let act as an agent", a.programAdd(), a.programList(), a.programConsents(),
		a.remove("remove ID", "Remove a program and end what people let it do", "program", "Every consent given to it ends.", programIDs, (*client.Client).RemoveOAuthClient),
		a.remove("end CONSENT", "End one person's consent at once", "consent", "Every token of it ends.", consentIDs, (*client.Client).EndConsent))
}

func programIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.OAuthClients(ctx)
	return namesOf(l, err, func(x client.OAuthClient) string { return x.ID + "\t" + x.Name })
}

func consentIDs(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.Consents(ctx)
	return namesOf(l, err, func(x client.Consent) string { return x.ID + "\t" + x.User })
}

func (a *app) programAdd() *cobra.Command {
	var x client.OAuthClient
	cmd := &cobra.Command{Use: "add CLIENT-ID --agent AGENT --reason TEXT", Short: "Let every user act through a program as an agent", Args: operands("CLIENT-ID"),
		Long: `Registers a program for everybody: whoever signs in and consents lets it act as the agent on their behalf. CLIENT-ID is a name
of yours, with --redirect, or the URL of the program's metadata document. Without this, people can let a program act as an agent
that they answer for.`,
		Example: "  countersign agent program add https://ide.example/client.json --agent code-assistant --reason 'all developers use it'"}
	f := cmd.Flags()
	f.StringVar(&x.Agent, "agent", "", "the agent it acts as")
	f.StringVar(&x.Name, "name", "", "what people see")
	f.StringArrayVar(&x.Redirects, "redirect", nil, "redirect URI (repeatable)")
	a.completeFlag(cmd, "agent", agentNames)
	_ = cmd.MarkFlagRequired("agent")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		x.ClientID = args[0]
		out, err := c.AddOAuthClient(ctx, x)
		if err != nil {
			return err
		}
		return a.did(out, "people may let %s act as agent %s", out.Name, out.Agent)
	})
	return cmd
}

func (a *app) programList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List programs that were registered", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.OAuthClients(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "no program was registered; people can let programs act as agents they answer for",
			column[client.OAuthClient]{"ID", func(x client.OAuthClient) string { return x.ID }, nil},
			column[client.OAuthClient]{"NAME", func(x client.OAuthClient) string { return x.Name }, nil},
			column[client.OAuthClient]{"CLIENT ID", func(x client.OAuthClient) string { return x.ClientID }, nil},
			column[client.OAuthClient]{"AGENT", func(x client.OAuthClient) string { return x.Agent }, nil},
			column[client.OAuthClient]{"KIND", func(x client.OAuthClient) string { return x.Kind }, nil})
	})
	return cmd
}

func (a *app) programConsents() *cobra.Command {
	cmd := &cobra.Command{Use: "consents", Short: "List what people let programs do", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Consents(ctx)
		if err != nil {
			return err
		}
		return list(a, all, "nobody lets a program do anything",
			column[client.Consent]{"ID", func(x client.Consent) string { return x.ID }, nil},
			column[client.Consent]{"USER", func(x client.Consent) string { return x.User }, nil},
			column[client.Consent]{"AGENT", func(x client.Consent) string { return x.Agent }, nil},
			column[client.Consent]{"PROGRAM", func(x client.Consent) string { return x.ClientID }, nil},
			column[client.Consent]{"SCOPE", func(x client.Consent) string { return x.Scope }, nil},
			column[client.Consent]{"RESOURCES", func(x client.Consent) string { return fmt.Sprint(x.Resources) }, nil},
			column[client.Consent]{"ENDED", func(x client.Consent) string { return ago(x.Ended) }, nil})
	})
	return cmd
}
