package agents

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
)

const defaultChatModel = "gpt-5-mini"

// needChat checks what an agent needs that asks an OpenAI model and has tools
// of MCP servers.
func needChat(env Env) error {
	return need(map[string]string{"OPENAI_BASE_URL": env.OpenAIBaseURL, "OPENAI_API_KEY": env.OpenAIAPIKey, "COUNTERSIGN_MCP_URL": env.MCPURL, "COUNTERSIGN_TOKEN": env.Token},
		"OPENAI_BASE_URL", "OPENAI_API_KEY", "COUNTERSIGN_MCP_URL", "COUNTERSIGN_TOKEN")
}

// tools are what an agent can do: what it offers to the model, and carries out.
type tools interface {
	definitions() []definition
	call(ctx context.Context, name, args string) (text string, failed bool)
}

// chat is a loop around chat completions: ask, do what the model wants, tell it
// what came of it, until it wants nothing more.
type chat struct {
	client openai.Client
	tools  tools
	diary  diary
	params openai.ChatCompletionNewParams
}

func newChat(env Env, d diary, tools tools, prompt, task string) *chat {
	a := &chat{
		client: openai.NewClient(option.WithBaseURL(env.OpenAIBaseURL), option.WithAPIKey(env.OpenAIAPIKey)),
		tools:  tools, diary: d,
		params: openai.ChatCompletionNewParams{
			Model:               env.Model,
			MaxCompletionTokens: openai.Int(1024),
			StreamOptions:       openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
			Messages:            []openai.ChatCompletionMessageParamUnion{openai.SystemMessage(prompt), openai.UserMessage(task)},
		},
	}
	if env.Model == "" {
		a.params.Model = defaultChatModel
	}
	for _, t := range tools.definitions() {
		a.params.Tools = append(a.params.Tools, openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
			Name: t.name, Description: openai.String(t.description), Parameters: t.schema}))
	}
	return a
}

func (a *chat) work(ctx context.Context) error {
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
func (a *chat) ask(ctx context.Context) (openai.ChatCompletionMessage, error) {
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
