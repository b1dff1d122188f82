package export_test

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"

	"github.com/countersign/countersign/internal/audit/export"
)

// published are the names as OpenTelemetry's own module has them.
var published = []attribute.Key{
	semconv.ServiceNameKey, semconv.ServiceVersionKey, semconv.ErrorTypeKey, semconv.UserAgentOriginalKey, semconv.ClientAddressKey,
	semconv.HTTPResponseStatusCodeKey, semconv.RPCResponseStatusCodeKey, semconv.UserIDKey, semconv.UserNameKey, semconv.GenAIOperationNameKey,
	semconv.GenAIProviderNameKey, semconv.GenAIAgentIDKey, semconv.GenAIAgentNameKey, semconv.GenAIConversationIDKey, semconv.GenAIRequestModelKey,
	semconv.GenAIResponseModelKey, semconv.GenAIUsageInputTokensKey, semconv.GenAIUsageOutputTokensKey, semconv.GenAIUsageCacheReadInputTokensKey,
	semconv.GenAIToolNameKey, semconv.GenAIToolTypeKey, semconv.GenAIToolCallIDKey, semconv.GenAIToolCallArgumentsKey, semconv.GenAIToolCallResultKey,
	semconv.McpMethodNameKey,
}

func TestNamesAreThePublishedOnes(t *testing.T) {
	if len(published) != len(export.Conventions) {
		t.Fatalf("%d names here, %d published", len(export.Conventions), len(published))
	}
	for i, name := range export.Conventions {
		if name != string(published[i]) {
			t.Errorf("%q is published as %q", name, published[i])
		}
	}
	if export.SchemaURL != semconv.SchemaURL {
		t.Errorf("%s is published as %s", export.SchemaURL, semconv.SchemaURL)
	}
	for i, kv := range []attribute.KeyValue{semconv.GenAIOperationNameChat, semconv.GenAIOperationNameEmbeddings, semconv.GenAIOperationNameExecuteTool, semconv.GenAIOperationNameRetrieval} {
		if kv.Value.AsString() != export.Operations[i] {
			t.Errorf("%q is published as %q", export.Operations[i], kv.Value.AsString())
		}
	}
	for i, kv := range []attribute.KeyValue{semconv.GenAIProviderNameOpenAI, semconv.GenAIProviderNameAnthropic} {
		if kv.Value.AsString() != export.Providers[i] {
			t.Errorf("%q is published as %q", export.Providers[i], kv.Value.AsString())
		}
	}
	if semconv.McpMethodNameToolsCall.Value.AsString() != "tools/call" {
		t.Error("the method of a tool's call has another name")
	}
}
