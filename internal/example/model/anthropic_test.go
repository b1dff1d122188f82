package model_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
)

func anthropicClient(t *testing.T, credential string) anthropic.Client {
	t.Helper()
	_, h := serve(t)
	return anthropic.NewClient(option.WithBaseURL(h.URL), option.WithAPIKey(credential), option.WithMaxRetries(0))
}

func messageParams(name, text string) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{Model: anthropic.Model(name), MaxTokens: 1024,
		System:   []anthropic.TextBlockParam{{Text: "Be brief."}},
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
		Tools:    []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: "get_order"}}}}
}

func TestMessages(t *testing.T) {
	c := anthropicClient(t, key)
	params := messageParams("claude-sonnet-4-5", `call get_order with {"number":"O-1"} and call get_order with {"number":"O-2"}`)
	plain, err := c.Messages.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	stream := c.Messages.NewStreaming(t.Context(), params)
	var streamed anthropic.Message
	for stream.Next() {
		if err := streamed.Accumulate(stream.Current()); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]*anthropic.Message{"plain": plain, "streamed": &streamed} {
		if m.StopReason != "tool_use" || len(m.Content) != 3 || m.Content[0].Text != "I will do that." || m.Content[1].Name != "get_order" ||
			string(m.Content[1].Input) != `{"number":"O-1"}` || string(m.Content[2].Input) != `{"number":"O-2"}` || m.Usage.InputTokens == 0 || m.Usage.OutputTokens < 2 {
			t.Errorf("%s: %+v", name, m)
		}
	}
	params.Messages = append(params.Messages, plain.ToParam(), anthropic.NewUserMessage(
		anthropic.NewToolResultBlock(plain.Content[1].ID, "in transit", false), anthropic.NewToolResultBlock(plain.Content[2].ID, "policy forbids it", true)))
	last, err := c.Messages.New(t.Context(), params)
	if err != nil || last.StopReason != "end_turn" || !strings.Contains(last.Content[0].Text, "get_order was refused: policy forbids it") {
		t.Errorf("%v %+v", err, last)
	}
}

func TestMessagesCountModelsAndErrors(t *testing.T) {
	c := anthropicClient(t, key)
	count, err := c.Messages.CountTokens(t.Context(), anthropic.MessageCountTokensParams{Model: "claude-sonnet-4-5",
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("twelve bytes"))}})
	if err != nil || count.InputTokens != 6 {
		t.Errorf("%v %+v", err, count)
	}
	page, err := c.Models.List(t.Context(), anthropic.ModelListParams{})
	if err != nil || len(page.Data) == 0 || page.Data[0].CreatedAt.IsZero() {
		t.Errorf("%v %+v", err, page)
	}
	for name, status := range map[string]int{"gpt-5": 404, "test-error?status=529": 529} {
		_, err := c.Messages.New(t.Context(), messageParams(name, "x"))
		var e *anthropic.Error
		if !errors.As(err, &e) || e.StatusCode != status || e.Type() == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	stream := c.Messages.NewStreaming(t.Context(), messageParams("test-error200", "x"))
	for stream.Next() {
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "in the middle") {
		t.Errorf("error inside a stream: %v", err)
	}
	stranger := anthropicClient(t, "csk_of_the_agent")
	_, err = stranger.Messages.New(t.Context(), messageParams("claude-sonnet-4-5", "x"))
	var e *anthropic.Error
	if !errors.As(err, &e) || e.StatusCode != 401 || e.Type() != "authentication_error" {
		t.Errorf("wrong key: %v", err)
	}
}
