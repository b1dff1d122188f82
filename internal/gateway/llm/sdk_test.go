package llm_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	anthropicsdk "github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	openaisdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"go.uber.org/goleak"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/example/model"
	"github.com/countersign/countersign/internal/storage"
	"github.com/countersign/countersign/internal/storage/storagetest"
	"github.com/countersign/countersign/test/line"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// provider starts the scripted model provider, which demands line.Secret.
func provider(t testing.TB) (*model.Server, string) {
	t.Helper()
	s, err := model.New(model.Options{Key: line.Secret})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, "http://" + l.Addr().String()
}

func openaiClient(l *line.Line) openaisdk.Client {
	return openaisdk.NewClient(option.WithBaseURL(l.URL+"/llm/openai/v1"), option.WithAPIKey(l.Key), option.WithHTTPClient(l.Client()), option.WithMaxRetries(0))
}

func anthropicClient(l *line.Line) anthropicsdk.Client {
	return anthropicsdk.NewClient(anthropicoption.WithBaseURL(l.URL+"/llm/anthropic"), anthropicoption.WithAPIKey(l.Key),
		anthropicoption.WithHTTPClient(l.Client()), anthropicoption.WithMaxRetries(0), anthropicoption.WithoutEnvironmentDefaults())
}

func chatParams(name string) openaisdk.ChatCompletionNewParams {
	return openaisdk.ChatCompletionNewParams{
		Model:    name,
		Messages: []openaisdk.ChatCompletionMessageParamUnion{openaisdk.UserMessage("Is invoice 4711 in order?")},
	}
}

func messageParams(name string) anthropicsdk.MessageNewParams {
	return anthropicsdk.MessageNewParams{
		Model: anthropicsdk.Model(name), MaxTokens: 100,
		Messages: []anthropicsdk.MessageParam{anthropicsdk.NewUserMessage(anthropicsdk.NewTextBlock("Is invoice 4711 in order?"))},
	}
}

func TestOpenAIClientUnmodified(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		upstream, base := provider(t)
		l := line.Start(t, db, line.Options{})
		l.Connect("openai", "openai", base)
		l.Policies(line.AllowAll)
		c, ctx := openaiClient(l), context.Background()

		chat, err := c.Chat.Completions.New(ctx, chatParams("test-echo"))
		if err != nil || !strings.Contains(chat.Choices[0].Message.Content, "4711") {
			t.Fatalf("chat: %v %+v", err, chat)
		}
		params := chatParams("test-echo")
		params.StreamOptions = openaisdk.ChatCompletionStreamOptionsParam{IncludeUsage: openaisdk.Bool(true)}
		stream := c.Chat.Completions.NewStreaming(ctx, params)
		var text strings.Builder
		for stream.Next() {
			for _, choice := range stream.Current().Choices {
				text.WriteString(choice.Delta.Content)
			}
		}
		if err := stream.Err(); err != nil || !strings.Contains(text.String(), "4711") {
			t.Fatalf("stream: %v %q", err, text.String())
		}
		resp, err := c.Responses.New(ctx, responses.ResponseNewParams{
			Model: "test-echo", Input: responses.ResponseNewParamsInputUnion{OfString: openaisdk.String("invoice 4711")},
		})
		if err != nil || !strings.Contains(resp.OutputText(), "4711") {
			t.Fatalf("responses: %v", err)
		}
		rs := c.Responses.NewStreaming(ctx, responses.ResponseNewParams{
			Model: "test-echo", Input: responses.ResponseNewParamsInputUnion{OfString: openaisdk.String("invoice 4711")},
		})
		for rs.Next() {
		}
		if rs.Err() != nil {
			t.Fatalf("responses stream: %v", rs.Err())
		}
		emb, err := c.Embeddings.New(ctx, openaisdk.EmbeddingNewParams{
			Model: "text-embedding-3-small", Input: openaisdk.EmbeddingNewParamsInputUnion{OfString: openaisdk.String("x")},
		})
		if err != nil || len(emb.Data) != 1 {
			t.Fatalf("embeddings: %v", err)
		}
		models, err := c.Models.List(ctx)
		if err != nil || len(models.Data) == 0 {
			t.Fatalf("models: %v", err)
		}
		if m, err := c.Models.Get(ctx, "gpt-5"); err != nil || m.ID != "gpt-5" {
			t.Fatalf("model: %v", err)
		}
		checkRecorded(t, l, upstream, 7)
	})
}

func TestAnthropicClientUnmodified(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		upstream, base := provider(t)
		l := line.Start(t, db, line.Options{})
		l.Connect("anthropic", "anthropic", base)
		l.Policies(line.AllowAll)
		c, ctx := anthropicClient(l), context.Background()

		msg, err := c.Messages.New(ctx, messageParams("test-echo"))
		if err != nil || len(msg.Content) == 0 || !strings.Contains(msg.Content[0].Text, "4711") {
			t.Fatalf("messages: %v %+v", err, msg)
		}
		stream := c.Messages.NewStreaming(ctx, messageParams("test-echo"))
		var whole anthropicsdk.Message
		for stream.Next() {
			if err := whole.Accumulate(stream.Current()); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.Err(); err != nil || !strings.Contains(whole.Content[0].Text, "4711") {
			t.Fatalf("stream: %v", err)
		}
		if n, err := c.Messages.CountTokens(ctx, anthropicsdk.MessageCountTokensParams{
			Model: "claude-haiku-4-5", Messages: messageParams("").Messages,
		}); err != nil || n.InputTokens == 0 {
			t.Fatalf("count tokens: %v", err)
		}
		models, err := c.Models.List(ctx, anthropicsdk.ModelListParams{})
		if err != nil || len(models.Data) == 0 {
			t.Fatalf("models: %v", err)
		}
		checkRecorded(t, l, upstream, 4)
	})
}

// checkRecorded holds what the upstream saw against what the log says.
func checkRecorded(t *testing.T, l *line.Line, upstream *model.Server, n int) {
	t.Helper()
	intents := l.Events(n, audit.CallIntent)
	outcomes := l.Events(n, audit.CallOutcome)
	seen, _ := upstream.Requests()
	if len(seen) != n {
		t.Fatalf("the upstream saw %d requests, want %d", len(seen), n)
	}
	digests := map[string]bool{}
	for _, r := range intents {
		ev := r.Event
		digests[ev.Digest] = true
		if ev.Agent != "invoice-checker" || ev.Owner != "pat" || ev.Run == "" || ev.Call == "" || ev.Remote == "" || ev.Credential == "" {
			t.Errorf("the intent does not say who: %+v", ev)
		}
		if ev.Decision == nil || ev.Decision.Effect != "allow" || !slices.Contains(ev.Decision.Policies, "all") {
			t.Errorf("the intent does not say why: %+v", ev.Decision)
		}
		if ev.Tool != "models" && ev.Tool != "embeddings" && !strings.Contains(string(r.Payloads["prompt"]), "4711") {
			t.Errorf("%s: the prompt is %q", ev.Tool, r.Payloads["prompt"])
		}
	}
	for _, r := range seen {
		if !r.Authorised {
			t.Errorf("%s %s came without the provider's key", r.Method, r.Path)
		}
		if r.Method == http.MethodPost && !digests[r.BodySHA256] {
			t.Errorf("%s %s: other bytes than were recorded", r.Method, r.Path)
		}
	}
	for _, r := range outcomes {
		o := r.Event.Outcome
		if o == nil || o.Status != audit.Succeeded || o.Code != 200 || o.Bytes == 0 || o.Digest == "" || o.Micros == 0 {
			t.Errorf("%s: outcome %+v", r.Event.Tool, o)
			continue
		}
		counts := r.Event.Tool != "models" && r.Event.Tool != "messages.count_tokens"
		if counts && (o.Usage == nil || o.Usage.Input == 0) {
			t.Errorf("%s: no usage", r.Event.Tool)
		}
		if counts && r.Event.Tool != "embeddings" && !strings.Contains(string(r.Payloads["answer"]), "4711") {
			t.Errorf("%s: the answer is %q", r.Event.Tool, r.Payloads["answer"])
		}
	}
}

const limits = `
@id("models-of-finance")
permit (principal == Agent::"invoice-checker", action, resource)
when { context.args has model && ["gpt-5-mini", "claude-haiku-4-5"].contains(context.args.model) };

@id("token-limit") @advice("ask for at most 1000 tokens")
forbid (principal, action in [Action::"openai/chat.completions", Action::"anthropic/messages"], resource)
when { context.args has max_tokens && context.args.max_tokens > 1000 };

@id("tools-need-a-person") @approval("finance-controllers")
forbid (principal, action in [Action::"openai/chat.completions", Action::"anthropic/messages"], resource)
when { context.args has tools && context.args.tools.contains("pay_invoice") };
`

func TestRefusalsAsEachClientExpectsThem(t *testing.T) {
	upstream, base := provider(t)
	l := line.Start(t, storagetest.Open(t, storagetest.SQLite(t)), line.Options{})
	l.Connect("openai", "openai", base)
	l.Connect("anthropic", "anthropic", base)
	l.Policies(limits)
	ctx := context.Background()
	oc, ac := openaiClient(l), anthropicClient(l)

	_, err := oc.Chat.Completions.New(ctx, chatParams("gpt-5"))
	wantOpenAI(t, err, 403, "policy_denied", "")
	params := chatParams("gpt-5-mini")
	params.MaxCompletionTokens = openaisdk.Int(5000)
	_, err = oc.Chat.Completions.New(ctx, params)
	wantOpenAI(t, err, 403, "policy_denied", "ask for at most 1000 tokens")
	params = chatParams("gpt-5-mini")
	params.Tools = []openaisdk.ChatCompletionToolUnionParam{openaisdk.ChatCompletionFunctionTool(openaisdk.FunctionDefinitionParam{Name: "pay_invoice"})}
	_, err = oc.Chat.Completions.New(ctx, params)
	wantOpenAI(t, err, 403, "approval_pending", "finance-controllers")

	_, err = ac.Messages.New(ctx, messageParams("claude-opus-4-5"))
	wantAnthropic(t, err, 403, "permission_error", "")
	am := messageParams("claude-haiku-4-5")
	am.MaxTokens = 5000
	_, err = ac.Messages.New(ctx, am)
	wantAnthropic(t, err, 403, "permission_error", "ask for at most 1000 tokens")
	am = messageParams("claude-haiku-4-5")
	am.Tools = []anthropicsdk.ToolUnionParam{{OfTool: &anthropicsdk.ToolParam{Name: "pay_invoice"}}}
	_, err = ac.Messages.New(ctx, am)
	wantAnthropic(t, err, 403, "permission_error", "approval_pending")

	if seen, _ := upstream.Requests(); len(seen) != 0 {
		t.Fatalf("%d refused calls reached the upstream", len(seen))
	}
	l.Events(4, audit.CallDenied)
	for _, r := range l.Events(2, audit.CallHeld) {
		if d := r.Event.Decision; d.Effect != "hold" || !slices.Contains(d.Policies, "tools-need-a-person") {
			t.Errorf("held: %+v", d)
		}
	}
	l.Events(0, audit.CallIntent, audit.CallOutcome)

	if _, err := oc.Chat.Completions.New(ctx, chatParams("gpt-5-mini")); err != nil {
		t.Errorf("what policy allows: %v", err)
	}
	checkLists(t, oc, ac)
}

// checkLists sees that lists show only what may be used.
func checkLists(t *testing.T, oc openaisdk.Client, ac anthropicsdk.Client) {
	t.Helper()
	ctx := context.Background()
	om, err := oc.Models.List(ctx)
	if err != nil || len(om.Data) != 1 || om.Data[0].ID != "gpt-5-mini" {
		t.Errorf("openai models: %v %+v", err, om)
	}
	am, err := ac.Models.List(ctx, anthropicsdk.ModelListParams{})
	if err != nil || len(am.Data) != 1 || am.Data[0].ID != "claude-haiku-4-5" {
		t.Errorf("anthropic models: %v %+v", err, am)
	}
	if _, err := oc.Models.Get(ctx, "gpt-5"); err == nil {
		t.Error("a model that may not be used can be looked up")
	}
}

func wantOpenAI(t *testing.T, err error, status int, code, says string) {
	t.Helper()
	e, ok := errors.AsType[*openaisdk.Error](err)
	if !ok || e.StatusCode != status || e.Code != code || !strings.Contains(e.Message, says) || e.Message == "" {
		t.Errorf("got %v, want %d %s %q", err, status, code, says)
	}
}

func wantAnthropic(t *testing.T, err error, status int, kind, says string) {
	t.Helper()
	e, ok := errors.AsType[*anthropicsdk.Error](err)
	if !ok || e.StatusCode != status || !strings.Contains(e.RawJSON(), kind) || !strings.Contains(e.RawJSON(), says) {
		t.Errorf("got %v, want %d %s %q", err, status, kind, says)
	}
}
