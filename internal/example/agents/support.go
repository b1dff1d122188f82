package agents

import (
	"context"
	"io"
)

const supportPrompt = `You are the support assistant of Hanse Trade, a small mail-order house for things nautical.
Work through one ticket: read it, look up the order it is about, draft a short and friendly answer, send it, close the ticket.
Use the tools. When a tool refuses, do what you can without it and say so at the end.`

// Support works through one ticket (env.Task, or the next open one) and prints a
// line per step to out. Besides the helpdesk it is connected to the ledger, to
// look up invoices that customers ask about, and to the courier.
//
// A refusal by policy, even of the model itself, is not an error. Errors are an
// incomplete environment ([ErrEnv]), a model or tools that cannot be reached,
// and [ErrLoop].
func Support(ctx context.Context, env Env, out io.Writer) error {
	if err := needChat(env); err != nil {
		return err
	}
	d := diary{out}
	task := "Work on the next open ticket."
	if env.Task != "" {
		task = "Work on ticket " + env.Task + "."
	}
	d.line("support-assistant: %s", task)
	tools, err := openToolbox(ctx, env, d, "helpdesk", "courier", "ledger")
	if err != nil {
		return err
	}
	defer tools.close()
	return newChat(env, d, tools, supportPrompt, task).work(ctx)
}
