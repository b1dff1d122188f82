package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
)

const supportPrompt = `You are the support assistant of Hanse Trade, a small mail-order house for things nautical.
Work through one ticket: read it, look up the order it is about, draft a short and friendly answer, send it, close the ticket.
Use the tools. When a tool refuses, do what you can without it and say so at the end.`

const defaultSupportModel = "gpt-5-mini"

// Support works through one ticket (env.Task, or the next open one) and prints a
// line per step to out. Besides the helpdesk it is connected to the ledger, to
// look up invoices that customers ask about.
//
// A refusal by policy, even of the model itself, is not an error. Errors are an
// incomplete environment ([ErrEnv]), a model or tools that cannot be reached,
// and [ErrLoop].
func Support(ctx context.Context, env Env, out io.Writer) error {
	err := need(map[string]string{"OPENAI_BASE_URL": env.OpenAIBaseURL, "OPENAI_API_KEY": env.OpenAIAPIKey, "COUNTERSIGN_MCP_URL": env.MCPURL, "COUNTERSIGN_TOKEN": env.Token},
		"OPENAI_BASE_URL", "OPENAI_API_KEY", "COUNTERSIGN_MCP_URL", "COUNTERSIGN_TOKEN")
	if err != nil {
		return err
	}
	d := diary{out}
	task := "Work on the next open ticket."
	if env.Task != "" {
		task = "Work on ticket " + env.Task + "."
	}
	d.line("support-assistant: %s", task)
	tools, err := openToolbox(ctx, env, d, "helpdesk", "ledger")
	if err != nil {
		return err
	}
	defer tools.close()
	a := &supportAgent{
		client: openai.NewClient(option.WithBaseURL(env.OpenAIBaseURL), option.WithAPIKey(env.OpenAIAPIKey)),
		tools:  tools, diary: d,
		params: openai.ChatCompletionNewParams{
			Model:               env.Model,
			MaxCompletionTokens: openai.Int(1024),
			StreamOptions:       openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
			Messages:            []openai.ChatCompletionMessageParamUnion{openai.SystemMessage(supportPrompt), openai.UserMessage(task)},
		},
	}
	if env.Model == "" {
		a.params.Model = defaultSupportModel
	}
	for _, t := range tools.definitions() {
		a.params.Tools = append(a.params.Tools, openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
			Name: t.name, Description: openai.String(t.description), Parameters: t.schema}))
	}
	return a.work(ctx)
}

type supportAgent struct {
	client openai.Client
	tools  *toolbox
	diary  diary
	params openai.ChatCompletionNewParams
}

func (a *supportAgent) work(ctx context.Context) error {
	for range maxTurns {
		message, err := a.ask(ctx)
		var refused *openai.Error
		if errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden {
			a.diary.line("model: refused: %s (%s)", refused.Message, refused.Code)
			return nil
		}
		if err != nil {
			return fmt.Errorf("asking the model: %w", err)
		}
		if message.Content != "" {
			a.diary.line("model: %s", message.Content)
		}
		if len(message.ToolCalls) == 0 {
			return nil
		}
		a.params.Messages = append(a.params.Messages, message.ToParam())
		for _, k := range message.ToolCalls {
			text, failed := a.tools.call(ctx, k.Function.Name, k.Function.Arguments)
			if failed {
				// This dialect has no mark for a failed call but the text itself.
				text = "ERROR: " + text
			}
			a.params.Messages = append(a.params.Messages, openai.ToolMessage(text, k.ID))
		}
	}
	return ErrLoop
}

// ask streams one answer and returns it whole.
func (a *supportAgent) ask(ctx context.Context) (openai.ChatCompletionMessage, error) {
	a.diary.line("asks %s (%d messages, %d tools)", a.params.Model, len(a.params.Messages), len(a.params.Tools))
	stream := a.client.Chat.Completions.NewStreaming(ctx, a.params)
	defer func() { _ = stream.Close() }()
	var acc openai.ChatCompletionAccumulator
	for stream.Next() {
		if !acc.AddChunk(stream.Current()) {
			return openai.ChatCompletionMessage{}, errors.New("the model's stream does not fit together")
		}
	}
	if err := stream.Err(); err != nil {
		return openai.ChatCompletionMessage{}, err
	}
	if len(acc.Choices) == 0 {
		return openai.ChatCompletionMessage{}, errors.New("the model's answer is empty")
	}
	return acc.Choices[0].Message, nil
}
