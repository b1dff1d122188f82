package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) connectionCommand() *cobra.Command {
	return group("connection", "Register the models, MCP servers, APIs and bodies of documents that agents call",
		a.connectionList(), a.connectionShow(), a.connectionPut("add"), a.connectionPut("update"), a.connectionRefresh(), a.connectionReach(), a.connectionImport(),
		a.remove("delete NAME", "Delete a connection", "connection", "Calls to it are refused from now on.", connectionNames, (*client.Client).DeleteConnection))
}

func (a *app) connectionList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List connections", Args: operands()}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, _ []string) error {
		all, err := c.Connections(ctx)
		if err != nil {
			return err
		}
		inv, err := c.Inventory(ctx)
		if err != nil {
			return err
		}
		for i := range all {
			all[i].Inventory = inventoryOf(inv.Connections, all[i].Name)
		}
		return list(a, all, "no connections yet: countersign connection add NAME --kind mcp --url URL",
			column[client.Connection]{"NAME", func(x client.Connection) string { return x.Name }, func(client.Connection) string { return bold }},
			column[client.Connection]{"KIND", connectionKind, nil},
			column[client.Connection]{"TARGET", func(x client.Connection) string { return x.Target }, nil},
			column[client.Connection]{"OWNER", func(x client.Connection) string { return x.Owner }, nil},
			column[client.Connection]{"SECRET", func(x client.Connection) string { return x.Secret }, nil},
			column[client.Connection]{"TOOLS", connectionTools, func(x client.Connection) string {
				if x.Drifted > 0 {
					return yellow
				}
				return ""
			}},
			column[client.Connection]{"LAST USED", func(x client.Connection) string { return ago(x.LastUsed) }, nil},
			column[client.Connection]{"AGE", func(x client.Connection) string { return inventoryAge(x.Inventory) }, nil},
			column[client.Connection]{"REACH", func(x client.Connection) string { return reachText(x.Inventory) }, func(x client.Connection) string { return reachColour(x.Inventory) }},
			column[client.Connection]{"FINDINGS", func(x client.Connection) string { return foundText(x.Inventory) }, func(x client.Connection) string { return foundColour(x.Inventory) }})
	})
	return cmd
}

func connectionKind(x client.Connection) string {
	if x.Dialect != "" {
		return x.Kind + " " + x.Dialect
	}
	return x.Kind
}

func connectionTools(x client.Connection) string {
	if x.Drifted > 0 {
		return fmt.Sprintf("%d, %d refused", x.Tools, x.Drifted)
	}
	if x.Dialect != "" {
		return "built in"
	}
	return fmt.Sprint(x.Tools)
}

func (a *app) connectionShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a connection and its tools", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(connectionNames)}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		x, err := c.Connection(ctx, args[0])
		if err != nil {
			return err
		}
		return a.showConnection(x)
	})
	return cmd
}

func (a *app) showConnection(x client.ConnectionDetail) error {
	s := x.Spec
	var tools []string
	for _, t := range x.Tools {
		if !strings.HasPrefix(t.Name, "mcp:") && (!t.Builtin || s.Dialect != "") {
			tools = append(tools, fmt.Sprintf("%s  %s, %s", t.Name, t.Effect, t.Status))
		}
	}
	private := ""
	if s.AllowPrivate {
		private = "allowed"
	}
	err := a.show(x, row("name", x.Name), row("id", x.ID), row("kind", strings.TrimSpace(s.Kind+" "+s.Dialect)), row("url", s.URL),
		row("command", strings.Join(s.Command, " ")), row("environment", pairs(s.Env)), row("owner", s.Owner), row("secret", s.Secret), row("auth", s.Auth),
		row("private addresses", private), row("timeout", s.Timeout), row("capture", s.Capture), row("proposal", s.Proposal), row("reads", string(s.Retrieval)), row("inspection", pairs(s.Inspect)), row("stages", stagesOf(s)), row("description", s.Description), row("created", ago(x.Created)),
		row("last used", ago(x.LastUsed)), row("tools", strings.Join(tools, "\n")))
	for _, w := range x.Warnings {
		a.warn("%s", w)
	}
	return err
}

func stagesOf(s client.ConnectionSpec) string {
	if len(s.Stages) == 0 {
		return "every stage (nobody said)"
	}
	return strings.Join(s.Stages, ", ")
}

type connectionFlags struct {
	spec    client.ConnectionSpec
	env     []string
	mapping string // a file
	inspect []string
}

func (f *connectionFlags) add(a *app, cmd *cobra.Command) {
	fl, s := cmd.Flags(), &f.spec
	fl.StringVar(&s.Kind, "kind", "mcp", "llm, mcp, http or retrieval")
	fl.StringVar(&s.Dialect, "dialect", "", "of an llm: openai or anthropic; of an http: git; of a retrieval: embedded, postgres, opensearch, qdrant or search")
	fl.StringVar(&s.URL, "url", "", "where it is, without /v1 for models")
	fl.StringArrayVar(&s.Command, "command", nil, "program of an MCP server over stdio; repeat the flag for each of its arguments")
	fl.StringArrayVar(&f.env, "env", nil, "KEY=VALUE of the command's environment; VALUE may be secret://NAME (repeatable; replaces all)")
	fl.StringVar(&s.Owner, "owner", "", "user who answers for it (default: you)")
	fl.StringVar(&s.Secret, "secret", "", "secret that is sent with each request")
	fl.StringVar(&s.Auth, "auth", "", "how it is sent: bearer, x-api-key, basic (the secret is USER:PASSWORD), none or header:NAME")
	fl.StringVar(&s.Description, "description", "", "what it is")
	fl.BoolVar(&s.AllowPrivate, "allow-private", false, "it is on this machine or in a private network")
	fl.StringVar(&s.Timeout, "timeout", "", "until an answer begins, such as 30s")
	fl.StringVar(&s.Proposal, "proposal", "", "kind of proposal that every answer is, such as anomaly (default none)")
	fl.StringVar(&f.mapping, "mapping", "", "file (YAML or JSON) that says how the documents of a retrieval's engine are read")
	fl.StringVar(&s.Capture, "capture", "", "how much of its payloads the log keeps: full, redacted or digest (default redacted)")
	fl.StringArrayVar(&f.inspect, "inspect", nil, "LABEL=ACTION: what is done about what is found in its calls and answers; labels: secret, pii, injection; actions: note, redact, pseudonymise, block, hold:GROUP; or guard=\"URL WORD...\" for a guardrail service (docs/inspection.md) (repeatable; replaces all; default note)")
	fl.StringSliceVar(&s.Stages, "stages", nil, "stages whose agents may reach it: development, staging, production (comma-separated; replaces all; default every stage)")
	fixed(cmd, "stages", "development", "staging", "production")
	fixed(cmd, "inspect", "secret=redact", "secret=block", "pii=redact", "pii=pseudonymise", "pii=block", "injection=block", "secret=note", "pii=note", "injection=note")
	a.completeFlag(cmd, "owner", userNames)
	a.completeFlag(cmd, "secret", secretNames)
	fixed(cmd, "kind", "llm", "mcp", "http", "retrieval")
	fixed(cmd, "dialect", "openai", "anthropic", "git", "embedded", "postgres", "opensearch", "qdrant", "search")
	fixed(cmd, "auth", "bearer", "x-api-key", "basic", "none")
	fixed(cmd, "capture", "full", "redacted", "digest")
}

// over returns old with every flag that was given.
func (f *connectionFlags) over(cmd *cobra.Command, old client.ConnectionSpec) (client.ConnectionSpec, error) {
	next, given := f.spec, cmd.Flags().Changed
	for flag, p := range map[string]struct{ from, to *string }{
		"kind": {&old.Kind, &next.Kind}, "dialect": {&old.Dialect, &next.Dialect}, "url": {&old.URL, &next.URL}, "owner": {&old.Owner, &next.Owner},
		"secret": {&old.Secret, &next.Secret}, "auth": {&old.Auth, &next.Auth}, "description": {&old.Description, &next.Description}, "timeout": {&old.Timeout, &next.Timeout},
		"capture": {&old.Capture, &next.Capture}, "proposal": {&old.Proposal, &next.Proposal},
	} {
		if !given(flag) && *p.from != "" {
			*p.to = *p.from
		}
	}
	if !given("command") {
		next.Command = old.Command
	}
	if !given("allow-private") {
		next.AllowPrivate = old.AllowPrivate
	}
	if !given("stages") {
		next.Stages = old.Stages
	}
	next.Inspect = old.Inspect
	if given("inspect") {
		inspect, err := labels(f.inspect)
		if err != nil {
			return next, err
		}
		next.Inspect = inspect
	}
	if next.Retrieval = old.Retrieval; given("mapping") {
		m, err := readMapping(f.mapping)
		if err != nil {
			return next, err
		}
		next.Retrieval = m
	}
	next.Env = old.Env
	if given("env") {
		env, err := labels(f.env)
		if err != nil {
			return next, err
		}
		next.Env = env
	}
	return next, nil
}

func (a *app) connectionPut(verb string) *cobra.Command {
	var f connectionFlags
	cmd := &cobra.Command{Use: verb + " NAME [-- PROGRAM ARGUMENT...]"}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if at := cmd.ArgsLenAtDash(); at >= 0 { // what follows -- is the program of an MCP server over stdio
			if len(args) == at || cmd.Flags().Changed("command") {
				return usageError{errors.New("give the program either after -- or with --command")}
			}
			args = args[:at]
		}
		return operands("NAME")(cmd, args)
	}
	cmd.Short = map[string]string{"add": "Register a model, an MCP server or an API", "update": "Change a connection"}[verb]
	f.add(a, cmd)
	if verb == "add" {
		cmd.Long = `Registers a connection. The tools of an MCP server are asked for and pinned in your name: what you see now is what agents
may be granted; a tool that changes later is refused until somebody accepts it.`
		cmd.Example = `  countersign connection add helpdesk --url https://helpdesk.example/mcp --secret helpdesk-token
  countersign connection add files -- npx -y @modelcontextprotocol/server-filesystem /srv
  countersign connection add openai --kind llm --dialect openai --url https://api.openai.com --auth bearer --secret openai-key
  countersign connection add handbook --kind retrieval --dialect embedded
  countersign connection add github --kind http --url https://api.github.com --secret github-token`
	} else {
		cmd.ValidArgsFunction = a.completeFirst(connectionNames)
		cmd.Example = "  countersign connection update helpdesk --url https://helpdesk2.example/mcp"
	}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		old, err := c.Connection(ctx, args[0])
		if verb == "add" && err == nil {
			return fmt.Errorf("there is a connection %q already: countersign connection update %s changes it", args[0], args[0])
		}
		if verb == "update" && err != nil {
			return err
		}
		spec, err := f.over(cmd, old.Spec)
		if err != nil {
			return err
		}
		if cmd.ArgsLenAtDash() >= 0 {
			spec.Command = args[1:]
		}
		if err := ownedByMe(ctx, c, &spec); err != nil {
			return err
		}
		var x client.ConnectionDetail
		err = a.waiting("registering "+args[0]+" and asking for its tools", func() (err error) {
			x, err = c.PutConnection(ctx, args[0], spec)
			return err
		})
		if err != nil {
			return err
		}
		if a.output != "json" {
			a.done("connection %s %s", x.Name, map[string]string{"add": "registered", "update": "updated"}[verb])
		}
		return a.showConnection(x)
	})
	return cmd
}

// ownedByMe makes the person who asks answer for a connection that nobody else
// is named for.
func ownedByMe(ctx context.Context, c *client.Client, spec *client.ConnectionSpec) error {
	if spec.Owner != "" {
		return nil
	}
	me, err := c.Me(ctx)
	spec.Owner = me.Name
	return err
}

func (a *app) connectionRefresh() *cobra.Command {
	cmd := &cobra.Command{Use: "refresh NAME", Short: "Ask an MCP server for its tools", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(connectionNames),
		Long: `Asks the server what its tools are now. The first time everything it offers is pinned in your name. Later, tools that changed or
are new are refused until somebody accepts them (countersign tool diff, countersign tool accept).`}
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		var r client.Refreshed
		err := a.waiting("asking "+args[0]+" for its tools", func() (err error) {
			r, err = c.RefreshConnection(ctx, args[0])
			return err
		})
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(r)
		}
		a.refreshed(args[0], r)
		return nil
	})
	return cmd
}
