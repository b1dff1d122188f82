package agents

import (
	"context"
	"io"
)

const knowledgePrompt = `You are the knowledge assistant of Hanse Trade and answer colleagues from the handbook.
Search the handbook, answer from what it gives you and name the documents. Send mail only when you are asked to.
Use the tools. When a tool refuses or waits for a person, go on without it and say so at the end.`

// Question is what a colleague asks when nobody says what.
const Question = "What are the rules for travel, salaries and visitors?"

// Knowledge answers one question (env.Task, or [Question]) out of the handbook
// and prints a line per step to out. On whose behalf it asks is in its token
// alone. See [Support] for what is an error and what is not.
func Knowledge(ctx context.Context, env Env, out io.Writer) error {
	if err := needChat(env); err != nil {
		return err
	}
	d := diary{out}
	task := env.Task
	if task == "" {
		task = Question
	}
	d.line("knowledge-assistant: %s", task)
	tools, err := openToolbox(ctx, env, d, "handbook", "helpdesk")
	if err != nil {
		return err
	}
	defer tools.close()
	return newChat(env, d, tools, knowledgePrompt, task).work(ctx)
}
