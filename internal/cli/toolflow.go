package cli

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

// toolFlow says who writes what a tool answers, and which arguments matter.
func (a *app) toolFlow() *cobra.Command {
	var source string
	var args, fields, asked, readers, reveal, expand []string
	var counterparty, known string
	var given func(string) bool
	cmd := a.tool("flow CONNECTION/TOOL", "Say whose words a tool's answers are, and which arguments matter", func(ctx context.Context, c *client.Client, connection, tool string, _ []string) error {
		t, err := c.Tool(ctx, connection, tool)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc([]string{"source", "arg", "field", "asked", "counterparty", "known-for", "reader", "reveal", "expand"}, given) {
			return a.show(t, flowRows(t)...)
		}
		next := t.References
		if given("arg") {
			next.Flow.Args, err = declared(args)
		}
		if given("field") {
			kinds, ferr := declared(fields)
			next.Flow.Fields, err = kinds, errors.Join(err, ferr)
		}
		for flag, set := range map[string]func(){
			"source": func() { next.Flow.Source = source }, "asked": func() { next.Flow.Asked = asked },
			"counterparty": func() { next.Flow.Counterparty = counterparty }, "known-for": func() { next.Flow.Known = known },
			"expand": func() { next.Flow.Expand = expand }, "reveal": func() { next.Flow.Reveal = reveal }, "reader": func() { next.Flow.Readers = readers },
		} {
			if given(flag) {
				set()
			}
		}
		if err != nil {
			return err
		}
		if t, err = c.SetReferences(ctx, connection, tool, next); err != nil {
			return err
		}
		return a.did(t, "%s/%s: answers are %s, arguments %s", t.Connection, t.Name, sourceOf(t.Flow), orNone(pairs(t.Flow.Args)))
	})
	given = cmd.Flags().Changed
	cmd.Flags().StringVar(&source, "source", "", "whose words the answers are: trusted (the service's own) or untrusted (anybody may have written them)")
	cmd.Flags().StringArrayVar(&args, "arg", nil, "NAME=ROLE of an argument: recipient, object, amount, secret, content (repeatable; replaces all; empty: none)")
	cmd.Flags().StringArrayVar(&fields, "field", nil, "NAME=KIND of a field of the answers: id, service, amount, text (repeatable; replaces all; empty: by their form)")
	cmd.Flags().StringSliceVar(&asked, "asked", nil, "words with which people ask for it, by commas (default: those of its name, in English)")
	cmd.Flags().StringVar(&counterparty, "counterparty", "", "the argument that names a counterparty: one that people approved endorses later calls of the agent (empty: none)")
	cmd.Flags().StringVar(&known, "known-for", "", "how long, such as 720h (default: 30 days)")
	cmd.Flags().StringSliceVar(&readers, "reader", nil, "who may know the answers, which are confidential then: user:NAME, group:NAME, team:NAME or an address (repeatable; replaces all; empty: not confidential)")
	cmd.Flags().StringSliceVar(&expand, "expand", nil, "arguments in which references to untrusted text become the text (replaces all; empty: none)")
	cmd.Flags().StringSliceVar(&reveal, "reveal", nil, "labels (pii, secret, injection) whose values the tool gets in place of placeholders (replaces all; empty: none)")
	cmd.Long = `Says what policy has to know to see where the values of a call come from (context.provenance). Without flags it shows what is declared.

Answers are untrusted unless said otherwise: mails, web pages, files and tickets are written by anybody. An argument matters if it says to whom
(recipient), to what (object: an id), how much (amount) or what secret is set. Of a record in an answer, fields that the service itself writes
(an id, a sender, a participant) may endorse a value if the user's words name the record; free text never does.`
	cmd.Example = `  countersign tool flow mail/send --arg to=recipient --reason 'mail leaves the house'
  countersign tool flow mail/search --source untrusted --field body=text --field from=service --reason 'anybody writes mail'`
	return cmd
}

func sourceOf(f client.Flow) string {
	if f.Source == "" {
		return "untrusted (nothing is declared)"
	}
	return f.Source
}

func flowRows(t client.ToolDetail) []field {
	return []field{
		row("tool", t.Connection+"/"+t.Name), row("answers", sourceOf(t.Flow)), row("arguments", orNone(pairs(t.Flow.Args))),
		row("fields", orNone(pairs(t.Flow.Fields))), row("asked for by", orNone(strings.Join(t.Flow.Asked, " "))),
		row("counterparty", t.Flow.Counterparty), row("known for", t.Flow.Known), row("readers", strings.Join(t.Flow.Readers, " ")), row("expands", strings.Join(t.Flow.Expand, " ")), row("reveals", strings.Join(t.Flow.Reveal, " ")),
	}
}
