package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

// InvoicesPrompt is the system prompt of the invoice checker, as its releases pin it.
const InvoicesPrompt = `You are the invoice checker of Hanse Trade.
Check the open invoices: flag anomalies (duplicates, changed bank accounts) with the reason and propose to hold their payment.
Pay the small clean invoices, at most three in one go, and the largest clean one if it is due. Amounts are whole cents.
Use the tools. When a tool refuses or a payment waits for a person, go on with the rest and say so at the end.`

const (
	invoicesTask         = "Check the open invoices and pay what is clean."
	defaultInvoicesModel = "claude-sonnet-4-5"
)

// Invoices checks the open invoices once and prints a line per step to out. See
// [Support] for what is an error and what is not.
func Invoices(ctx context.Context, env Env, out io.Writer) error {
	err := need(map[string]string{"ANTHROPIC_BASE_URL": env.AnthropicBaseURL, "ANTHROPIC_API_KEY": env.AnthropicAPIKey, "COUNTERSIGN_MCP_URL": env.MCPURL, "COUNTERSIGN_TOKEN": env.Token},
		"ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "COUNTERSIGN_MCP_URL", "COUNTERSIGN_TOKEN")
	if err != nil {
		return err
	}
	d := diary{out}
	d.line("invoice-checker: %s", invoicesTask)
	tools, err := openToolbox(ctx, env, d, "ledger")
	if err != nil {
		return err
	}
	defer tools.close()
	a := &invoicesAgent{
		client: anthropic.NewClient(option.WithBaseURL(env.AnthropicBaseURL), option.WithAPIKey(env.AnthropicAPIKey)),
		tools:  tools, diary: d,
		params: anthropic.MessageNewParams{
			Model:     anthropic.Model(env.Model),
			MaxTokens: 2048,
			System:    []anthropic.TextBlockParam{{Text: InvoicesPrompt}},
			Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(invoicesTask))},
		},
	}
	if env.Model == "" {
		a.params.Model = defaultInvoicesModel
	}
	for _, t := range tools.definitions() {
		a.params.Tools = append(a.params.Tools, anthropic.ToolUnionParam{OfTool: &anthropic.ToolParam{
			Name: t.name, Description: anthropic.String(t.description), InputSchema: inputSchema(t.schema)}})
	}
	return a.work(ctx)
}

// inputSchema splits a JSON Schema the way this client wants it.
func inputSchema(schema map[string]any) anthropic.ToolInputSchemaParam {
	p := anthropic.ToolInputSchemaParam{Properties: schema["properties"], ExtraFields: map[string]any{}}
	for key, value := range schema {
		switch key {
		case "type", "properties":
		case "required":
			names, _ := value.([]any)
			for _, n := range names {
				p.Required = append(p.Required, fmt.Sprint(n))
			}
		default:
			p.ExtraFields[key] = value
		}
	}
	return p
}

type invoicesAgent struct {
	client anthropic.Client
	tools  *toolbox
	diary  diary
	params anthropic.MessageNewParams
}

func (a *invoicesAgent) work(ctx context.Context) error {
	for range maxTurns {
		a.diary.line("asks %s (%d messages, %d tools)", a.params.Model, len(a.params.Messages), len(a.params.Tools))
		message, err := a.client.Messages.New(ctx, a.params)
		var refused *anthropic.Error
		if errors.As(err, &refused) && refused.StatusCode == http.StatusForbidden {
			a.diary.line("model: refused: %s", refused.RawJSON())
			return nil
		}
		if err != nil {
			return fmt.Errorf("asking the model: %w", err)
		}
		results := a.act(ctx, message)
		if len(results) == 0 {
			return nil
		}
		a.params.Messages = append(a.params.Messages, message.ToParam(), anthropic.NewUserMessage(results...))
	}
	return ErrLoop
}

// act carries out what the model asked for and returns the results for it.
func (a *invoicesAgent) act(ctx context.Context, message *anthropic.Message) []anthropic.ContentBlockParamUnion {
	var results []anthropic.ContentBlockParamUnion
	for _, block := range message.Content {
		switch b := block.AsAny().(type) {
		case anthropic.TextBlock:
			a.diary.line("model: %s", b.Text)
		case anthropic.ToolUseBlock:
			text, failed := a.tools.call(ctx, b.Name, string(b.Input))
			results = append(results, anthropic.NewToolResultBlock(b.ID, text, failed))
		}
	}
	return results
}
