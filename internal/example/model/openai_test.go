package model_test

import (
	"encoding/json/v2"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"

	"github.com/countersign/countersign/internal/example/model"
)

const key = "the-providers-own-key"

func serve(t *testing.T) (*model.Server, *httptest.Server) {
	t.Helper()
	s, err := model.New(model.Options{Key: key, Now: func() time.Time { return time.Unix(1_800_000_000, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, h
}

func openAI(t *testing.T) (openai.Client, *model.Server) {
	t.Helper()
	s, h := serve(t)
	return openai.NewClient(option.WithBaseURL(h.URL+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0)), s
}

var weather = shared.FunctionDefinitionParam{Name: "desk__get_order", Parameters: map[string]any{"type": "object"}}

func chatParams(name, text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: name, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)},
		Tools: []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(weather)}}
}

func TestChatCompletion(t *testing.T) {
	c, _ := openAI(t)
	answer, err := c.Chat.Completions.New(t.Context(), chatParams("test-echo", "Grüße, 世界"))
	if err != nil {
		t.Fatal(err)
	}
	if answer.Choices[0].Message.Content != "Grüße, 世界" || answer.Choices[0].FinishReason != "stop" || answer.Usage.TotalTokens == 0 {
		t.Errorf("%s", answer.RawJSON())
	}
	params := chatParams("test-size?size=4000", "x")
	params.MaxCompletionTokens = openai.Int(10)
	answer, err = c.Chat.Completions.New(t.Context(), params)
	if err != nil || answer.Choices[0].FinishReason != "length" || len(answer.Choices[0].Message.Content) != 40 {
		t.Errorf("limit: %v %s", err, answer.RawJSON())
	}
}

func TestChatCompletionStream(t *testing.T) {
	c, _ := openAI(t)
	for _, usage := range []bool{false, true} {
		params := chatParams("test-size?size=1000&chunks=7", "x")
		if usage {
			params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
		}
		stream := c.Chat.Completions.NewStreaming(t.Context(), params)
		var acc openai.ChatCompletionAccumulator
		pieces := 0
		for stream.Next() {
			chunk := stream.Current()
			if !acc.AddChunk(chunk) {
				t.Fatalf("chunk does not fit: %s", chunk.RawJSON())
			}
			if len(chunk.Choices) > 0 && chunk.Choices[0].Delta.Content != "" {
				pieces++
			}
			if !usage && strings.Contains(chunk.RawJSON(), `"usage"`) {
				t.Errorf("usage without being asked: %s", chunk.RawJSON())
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if pieces != 7 || len(acc.Choices[0].Message.Content) != 1000 || acc.Choices[0].FinishReason != "stop" || (acc.Usage.CompletionTokens == 250) != usage {
			t.Errorf("pieces %d, %d bytes, %s, usage %+v", pieces, len(acc.Choices[0].Message.Content), acc.Choices[0].FinishReason, acc.Usage)
		}
	}
}

func TestChatToolCalls(t *testing.T) {
	c, _ := openAI(t)
	params := chatParams("gpt-5-mini", `Please call get_order with {"number":"O-20001","big":12345678901234567890}.`)
	plain, err := c.Chat.Completions.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	stream := c.Chat.Completions.NewStreaming(t.Context(), params)
	var acc openai.ChatCompletionAccumulator
	for stream.Next() {
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]openai.ChatCompletionChoice{"plain": plain.Choices[0], "streamed": acc.Choices[0]} {
		if m.FinishReason != "tool_calls" || len(m.Message.ToolCalls) != 1 || m.Message.ToolCalls[0].Function.Name != "desk__get_order" ||
			!strings.Contains(m.Message.ToolCalls[0].Function.Arguments, `"number":"O-20001"`) {
			t.Errorf("%s: %+v", name, m)
		}
	}
	// With the result the model finishes, and does not call again.
	params.Messages = append(params.Messages, plain.Choices[0].Message.ToParam(), openai.ToolMessage(`{"status":"in transit"}`, plain.Choices[0].Message.ToolCalls[0].ID))
	last, err := c.Chat.Completions.New(t.Context(), params)
	if err != nil || len(last.Choices[0].Message.ToolCalls) != 0 || !strings.Contains(last.Choices[0].Message.Content, "in transit") {
		t.Errorf("%v %s", err, last.RawJSON())
	}
}

func TestResponses(t *testing.T) {
	c, _ := openAI(t)
	params := responses.ResponseNewParams{Model: "gpt-5", Instructions: openai.String("Be brief."),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(`call get_order with {"number":"O-1"}`)},
		Tools: []responses.ToolUnionParam{responses.ToolParamOfFunction("get_order", map[string]any{"type": "object"}, false)}}
	answer, err := c.Responses.New(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status != "completed" || answer.OutputText() != "I will do that." || answer.Output[1].Name != "get_order" || answer.Usage.TotalTokens == 0 {
		t.Errorf("%s", answer.RawJSON())
	}
	stream := c.Responses.NewStreaming(t.Context(), params)
	var text, args string
	var final responses.Response
	for stream.Next() {
		switch e := stream.Current().AsAny().(type) {
		case responses.ResponseTextDeltaEvent:
			text += e.Delta
		case responses.ResponseFunctionCallArgumentsDeltaEvent:
			args += e.Delta
		case responses.ResponseCompletedEvent:
			final = e.Response
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if text != "I will do that." || args != `{"number":"O-1"}` || final.Usage.TotalTokens != answer.Usage.TotalTokens || len(final.Output) != 2 {
		t.Errorf("text %q, args %q, final %s", text, args, final.RawJSON())
	}
	// The result of the call comes back as an item.
	output := responses.ResponseInputItemParamOfFunctionCallOutput("in transit")
	output.OfFunctionCallOutput.CallID = openai.String("call_1")
	params.Input = responses.ResponseNewParamsInputUnion{OfInputItemList: responses.ResponseInputParam{
		responses.ResponseInputItemParamOfMessage(`call get_order with {"number":"O-1"}`, responses.EasyInputMessageRoleUser),
		responses.ResponseInputItemParamOfFunctionCall(args, "call_1", "get_order"),
		output,
	}}
	last, err := c.Responses.New(t.Context(), params)
	if err != nil || last.OutputText() != "Done: in transit" {
		t.Errorf("%v %s", err, last.RawJSON())
	}
}

func TestEmbeddings(t *testing.T) {
	c, _ := openAI(t)
	answer, err := c.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "text-embedding-3-small", Dimensions: openai.Int(64),
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b", "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(answer.Data) != 3 || len(answer.Data[0].Embedding) != 64 {
		t.Fatalf("%s", answer.RawJSON())
	}
	dot := func(x, y []float64) (sum float64) {
		for i := range x {
			sum += x[i] * y[i]
		}
		return sum
	}
	a, b, again := answer.Data[0].Embedding, answer.Data[1].Embedding, answer.Data[2].Embedding
	if d := dot(a, again); d < 0.999 || d > 1.001 {
		t.Errorf("equal texts have similarity %f", d)
	}
	if d := dot(a, b); d > 0.6 {
		t.Errorf("different texts have similarity %f", d)
	}
	packed, err := c.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "text-embedding-3-small", EncodingFormat: "base64",
		Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("a")}})
	if err == nil && !strings.Contains(packed.RawJSON(), `"embedding":"`) {
		t.Errorf("not packed: %s", packed.RawJSON())
	}
}

func TestOpenAIModelsAndErrors(t *testing.T) {
	c, _ := openAI(t)
	page, err := c.Models.List(t.Context())
	if err != nil || len(page.Data) == 0 {
		t.Fatalf("%v %+v", err, page)
	}
	if m, err := c.Models.Get(t.Context(), "gpt-5"); err != nil || m.ID != "gpt-5" {
		t.Errorf("%v %+v", err, m)
	}
	for name, want := range map[string]struct {
		status int
		code   string
	}{"nobody-1": {404, "model_not_found"}, "test-nonsense": {404, "model_not_found"}, "test-error?status=429": {429, "rate_limit_exceeded"}, "test-error": {500, "internal_error"}} {
		_, err := c.Chat.Completions.New(t.Context(), chatParams(name, "x"))
		var e *openai.Error
		if !errors.As(err, &e) || e.StatusCode != want.status || e.Code != want.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	stream := c.Chat.Completions.NewStreaming(t.Context(), chatParams("test-error200", "x"))
	for stream.Next() {
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "in the middle") {
		t.Errorf("error inside a stream: %v", err)
	}
	stream = c.Chat.Completions.NewStreaming(t.Context(), chatParams("test-reset", "x"))
	for stream.Next() {
	}
	if stream.Err() == nil {
		t.Error("a broken connection went unnoticed")
	}
}

func TestEqualConversationsGetEqualAnswers(t *testing.T) {
	c, s := openAI(t)
	var raw []string
	for range 2 {
		a, err := c.Chat.Completions.New(t.Context(), chatParams("gpt-5", `call get_order with {"number":"O-1"}`))
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, a.RawJSON())
	}
	if raw[0] != raw[1] {
		t.Errorf("\n%s\n%s", raw[0], raw[1])
	}
	kept, dropped := s.Requests()
	if len(kept) != 2 || dropped != 0 || kept[0].BodySHA256 != kept[1].BodySHA256 || kept[1].Seq != 2 || !kept[0].Authorised {
		b, _ := json.Marshal(kept)
		t.Errorf("%s", b)
	}
}
