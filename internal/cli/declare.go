package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

// toolDeclare says what a tool's arguments mean to the log.
func (a *app) toolDeclare() *cobra.Command {
	var subject, proposal string
	var objects []string
	var given func(string) bool
	cmd := a.tool("declare CONNECTION/TOOL", "Say which arguments name a person or a business object", func(ctx context.Context, c *client.Client, connection, tool string, _ []string) error {
		if !given("subject") && !given("object") && !given("proposal") {
			return usageError{errors.New("give --subject PATH, --object TYPE=PATH or --proposal KIND")}
		}
		t, err := c.Tool(ctx, connection, tool)
		if err != nil {
			return err
		}
		next := t.References
		if given("subject") {
			next.Subject = subject
		}
		if given("object") {
			if next.Objects, err = declared(objects); err != nil {
				return err
			}
		}
		if given("proposal") {
			next.Proposal = proposal
		}
		if t, err = c.SetReferences(ctx, connection, tool, next); err != nil {
			return err
		}
		return a.did(t, "%s/%s: subject %s, objects %s, proposal %s", t.Connection, t.Name, orNone(t.Subject), orNone(pairs(t.Objects)), orNone(t.Proposal))
	})
	given = cmd.Flags().Changed
	cmd.Flags().StringVar(&subject, "subject", "", "path of the argument that names the person a call is about; empty: none")
	cmd.Flags().StringArrayVar(&objects, "object", nil, "TYPE=PATH of an argument that names a business object (repeatable; replaces all; empty: none)")
	cmd.Flags().StringVar(&proposal, "proposal", "", "kind of proposal that an answer is, such as anomaly; empty: none")
	cmd.Long = `Says what a tool's arguments mean. A path is the names of arguments from the outside in, with dots between them; * stands for every
element of a list.

What a call keeps is encrypted under a key of the person it is about, and is erased with countersign log erase --subject. The business objects
that it touches are found with countersign log trace --object TYPE/NAME; their names stay in the log, so do not declare persons as objects.`
	cmd.Example = `  countersign tool declare ledger/pay_invoice --object invoice=invoice_id --reason 'invoices are traced'
  countersign tool declare helpdesk/send_reply --subject customer.email --reason 'customers may ask for erasure'`
	return cmd
}

func declared(objects []string) (map[string]string, error) {
	if len(objects) == 1 && objects[0] == "" {
		return nil, nil
	}
	return labels(objects)
}

// toolTemplate says how a call is put into words for who decides about it.
func (a *app) toolTemplate() *cobra.Command {
	var none bool
	cmd := a.tool("template CONNECTION/TOOL [TEMPLATE]", "Show or set the sentence that says a call in plain words", func(ctx context.Context, c *client.Client, connection, tool string, rest []string) error {
		t, err := c.Tool(ctx, connection, tool)
		if err != nil {
			return err
		}
		if len(rest) == 0 && !none {
			return a.show(t, row("tool", t.Connection+"/"+t.Name), row("template", orNone(t.Template)), row("arguments", indented(t.InputSchema)))
		}
		next := t.References
		next.Template = ""
		if len(rest) > 0 {
			next.Template = rest[0]
		}
		if t, err = c.SetReferences(ctx, connection, tool, next); err != nil {
			return err
		}
		return a.did(t, "%s/%s is said as: %s", t.Connection, t.Name, orNone(t.Template))
	})
	cmd.Flags().BoolVar(&none, "none", false, "remove the template: calls are said by their arguments")
	cmd.Long = `People who decide about a held call read a sentence first. A template has holes for arguments, by their paths, and is checked against the
tool's schema: {payee}, {amount_cents|money:EUR} or {amount_cents|money:currency} (whole minor units, the currency named or taken from an
argument), {amount|amount:EUR} (a decimal number), {pieces|count}, {due|date}; {agent} is the agent's name. Where an argument is missing,
the call is said by its arguments.`
	cmd.Example = `  countersign tool template ledger/pay_invoice '{agent} wants to pay {amount_cents|money:currency} to {payee}' --reason 'controllers read this'`
	return cmd
}
