package mcp_test

import (
	"context"
	"fmt"
	"os"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

type noArgs struct{}

type echoArgs struct {
	Text string `json:"text"`
}

// newSDKServer is an MCP server as people write them.
func newSDKServer() *sdk.Server {
	s := sdk.NewServer(&sdk.Implementation{Name: "everyday", Version: "1"}, nil)
	sdk.AddTool(s, &sdk.Tool{Name: "echo", Description: "Says it again"}, func(_ context.Context, _ *sdk.CallToolRequest, in echoArgs) (*sdk.CallToolResult, any, error) {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: in.Text}}}, nil, nil
	})
	sdk.AddTool(s, &sdk.Tool{Name: "env", Description: "Shows the environment"}, func(_ context.Context, _ *sdk.CallToolRequest, _ noArgs) (*sdk.CallToolResult, any, error) {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: fmt.Sprint(len(os.Getenv("SECRET")), " ", os.Getenv("COUNTERSIGN_TEST_POSTGRES") == "", " ", len(os.Environ()))}}}, nil, nil
	})
	sdk.AddTool(s, &sdk.Tool{Name: "pid", Description: "Says which process it is"}, func(_ context.Context, _ *sdk.CallToolRequest, _ noArgs) (*sdk.CallToolResult, any, error) {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: fmt.Sprint(os.Getpid())}}}, nil, nil
	})
	sdk.AddTool(s, &sdk.Tool{Name: "hang", Description: "Does not answer"}, func(ctx context.Context, _ *sdk.CallToolRequest, _ noArgs) (*sdk.CallToolResult, any, error) {
		fmt.Fprintln(os.Stderr, "hanging")
		<-ctx.Done()
		fmt.Fprintln(os.Stderr, "cancelled")
		return nil, nil, ctx.Err()
	})
	sdk.AddTool(s, &sdk.Tool{Name: "progress", Description: "Reports progress"}, func(ctx context.Context, r *sdk.CallToolRequest, _ noArgs) (*sdk.CallToolResult, any, error) {
		for i := range 3 {
			r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i), Total: 3})
		}
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "ok"}}}, nil, nil
	})
	sdk.AddTool(s, &sdk.Tool{Name: "ask", Description: "Asks the user"}, func(ctx context.Context, r *sdk.CallToolRequest, _ noArgs) (*sdk.CallToolResult, any, error) {
		res, err := r.Session.Elicit(ctx, &sdk.ElicitParams{Message: "sure?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{"yes": map[string]any{"type": "boolean"}}}})
		if err != nil {
			return nil, nil, err
		}
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: res.Action}}}, nil, nil
	})
	s.AddResource(&sdk.Resource{URI: "doc://a", Name: "a"}, func(context.Context, *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: "doc://a", Text: "hello"}}}, nil
	})
	s.AddPrompt(&sdk.Prompt{Name: "greet", Arguments: []*sdk.PromptArgument{{Name: "who"}}}, func(_ context.Context, r *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
		return &sdk.GetPromptResult{Messages: []*sdk.PromptMessage{{Role: "user", Content: &sdk.TextContent{Text: "greet " + r.Params.Arguments["who"]}}}}, nil
	})
	return s
}

// childMain is this test binary as an MCP server over stdio.
func childMain() {
	if os.Getenv("COUNTERSIGN_TEST_CHILD") == "garbage" {
		fmt.Println("this is not JSON")
		time.Sleep(time.Hour)
	}
	server := newSDKServer()
	if os.Getenv("COUNTERSIGN_TEST_CHILD") == "leaky" {
		sdk.AddTool(server, &sdk.Tool{Name: "leak", Description: "Repeats the credential"}, func(ctx context.Context, r *sdk.CallToolRequest, _ noArgs) (*sdk.CallToolResult, any, error) {
			secret := os.Getenv("SECRET")
			r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: 1, Message: secret})
			fmt.Fprint(os.Stderr, "connecting with ", secret[:10])
			time.Sleep(20 * time.Millisecond)
			fmt.Fprintln(os.Stderr, secret[10:], "to the database")
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "it is " + secret + "!"}}}, nil, nil
		})
		sdk.AddTool(server, &sdk.Tool{Name: "fail", Description: "Repeats it in an error"}, func(context.Context, *sdk.CallToolRequest, noArgs) (*sdk.CallToolResult, any, error) {
			return nil, nil, fmt.Errorf("login failed with %s", os.Getenv("SECRET"))
		})
	}
	if err := server.Run(context.Background(), &sdk.StdioTransport{}); err != nil {
		os.Exit(1)
	}
}
