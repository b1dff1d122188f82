package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

// toolLimit says how often a tool may be called, and how long its answers may be.
func (a *app) toolLimit() *cobra.Command {
	var calls, each, result string
	var none bool
	var given func(string) bool
	cmd := a.tool("limit CONNECTION/TOOL", "Limit how often a tool is called, and how long its answers are", func(ctx context.Context, c *client.Client, connection, tool string, _ []string) error {
		t, err := c.Tool(ctx, connection, tool)
		if err != nil {
			return err
		}
		said := map[string]string{"calls": calls, "agent_calls": each, "result": result}
		if !given("calls") && !given("agent-calls") && !given("result") && !none {
			return a.show(t, row("tool", t.Connection+"/"+t.Name), row("limits", orNone(pairs(t.Limits))))
		}
		next := t.References
		next.Limits = map[string]string{}
		for name, flag := range map[string]string{"calls": "calls", "agent_calls": "agent-calls", "result": "result"} {
			value := t.Limits[name]
			if none {
				value = ""
			}
			if given(flag) {
				value = said[name]
			}
			if value != "" {
				next.Limits[name] = value
			}
		}
		if t, err = c.SetReferences(ctx, connection, tool, next); err != nil {
			return err
		}
		return a.did(t, "limits of %s/%s: %s", t.Connection, t.Name, orNone(pairs(t.Limits)))
	})
	given = cmd.Flags().Changed
	cmd.Flags().StringVar(&calls, "calls", "", "calls of all agents together, such as 60/1m (empty: no limit)")
	cmd.Flags().StringVar(&each, "agent-calls", "", "calls of each agent, such as 10/1m (empty: no limit)")
	cmd.Flags().StringVar(&result, "result", "", "the most bytes of an answer, such as 65536, 64KiB or 1MiB (empty: no limit)")
	cmd.Flags().BoolVar(&none, "none", false, "take every other limit away")
	cmd.Long = `Limits a tool, on all replicas together. Without flags it shows the limits.

60/1m means 60 calls at once, and then one each second. A call over it is refused with the time to wait (Retry-After), and counts for nothing;
one that people approved is not refused. An answer that is over its size is not passed on: the call was made all the same.`
	cmd.Example = `  countersign tool limit mail/send --agent-calls 10/1h --reason 'nobody writes more'
  countersign tool limit drive/read --result 256KiB --reason 'more than a model reads'`
	return cmd
}
