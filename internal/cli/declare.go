package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

// toolDeclare says what a tool's arguments mean to the log.
func (a *app) toolDeclare() *cobra.Command {
	var subject string
	var objects []string
	var given func(string) bool
	cmd := a.tool("declare CONNECTION/TOOL", "Say which arguments name a person or a business object", func(ctx context.Context, c *client.Client, connection, tool string, _ []string) error {
		if !given("subject") && !given("object") {
			return usageError{errors.New("give --subject PATH, --object TYPE=PATH or both")}
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
		if t, err = c.SetReferences(ctx, connection, tool, next); err != nil {
			return err
		}
		return a.did(t, "%s/%s: subject %s, objects %s", t.Connection, t.Name, orNone(t.Subject), orNone(pairs(t.Objects)))
	})
	given = cmd.Flags().Changed
	cmd.Flags().StringVar(&subject, "subject", "", "path of the argument that names the person a call is about; empty: none")
	cmd.Flags().StringArrayVar(&objects, "object", nil, "TYPE=PATH of an argument that names a business object (repeatable; replaces all; empty: none)")
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
