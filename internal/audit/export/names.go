package export

// The names of OpenTelemetry semantic conventions that are used, and nowhere
// else. GenAI and MCP names are as of version 1.41.0, the last release of the
// general conventions that holds them without a deprecation; since then they
// are kept in a repository of their own, still under development there. When
// they move, this file moves, and a test compares it with the published names.
const schemaURL = "https://opentelemetry.io/schemas/1.41.0"

const (
	attrServiceName    = "service.name"
	attrServiceVersion = "service.version"
	attrErrorType      = "error.type"
	attrUserAgent      = "user_agent.original"
	attrClientAddress  = "client.address"
	attrHTTPStatus     = "http.response.status_code"
	attrRPCStatus      = "rpc.response.status_code"
	attrUserID         = "user.id"
	attrUserName       = "user.name"

	attrOperation      = "gen_ai.operation.name"
	attrProvider       = "gen_ai.provider.name"
	attrAgentID        = "gen_ai.agent.id"
	attrAgentName      = "gen_ai.agent.name"
	attrConversation   = "gen_ai.conversation.id"
	attrRequestModel   = "gen_ai.request.model"
	attrResponseModel  = "gen_ai.response.model"
	attrInputTokens    = "gen_ai.usage.input_tokens"
	attrOutputTokens   = "gen_ai.usage.output_tokens"
	attrCachedTokens   = "gen_ai.usage.cache_read.input_tokens"
	attrToolName       = "gen_ai.tool.name"
	attrToolType       = "gen_ai.tool.type"
	attrToolCallID     = "gen_ai.tool.call.id"
	attrToolArguments  = "gen_ai.tool.call.arguments"
	attrToolResult     = "gen_ai.tool.call.result"
	attrMCPMethod      = "mcp.method.name"
	operationChat      = "chat"
	operationEmbed     = "embeddings"
	operationTool      = "execute_tool"
	operationRetrieval = "retrieval"
	methodToolsCall    = "tools/call"
	providerOpenAI     = "openai"
	providerAnthropic  = "anthropic"
	toolTypeExtension  = "extension" // a tool run on the agent's side of the model, that calls external APIs
	errorTool          = "tool_error"
	scopeName          = "github.com/countersign/countersign"
	serviceName        = "countersign"
	eventNamePrefix    = "countersign."
)

// What the conventions have no name for.
const (
	attrEventID    = "countersign.event.id"
	attrEventType  = "countersign.event.type"
	attrLane       = "countersign.log.lane"
	attrSN         = "countersign.log.sn"
	attrActorKind  = "countersign.actor.kind"
	attrCall       = "countersign.call.id"
	attrRun        = "countersign.run.id"
	attrConnection = "countersign.connection"
	attrTool       = "countersign.tool"
	attrEffect     = "countersign.effect"
	attrOwner      = "countersign.owner"
	attrTeam       = "countersign.team"
	attrStage      = "countersign.stage"
	attrCredential = "countersign.credential.id"
	attrObject     = "countersign.object"
	attrReason     = "countersign.reason"
	attrLabels     = "countersign.labels"
	attrBehalf     = "countersign.on_behalf_of"
	attrDecision   = "countersign.decision.effect"
	attrCode       = "countersign.decision.code"
	attrDecidedBy  = "countersign.decision.policies"
	attrGrants     = "countersign.decision.grants"
	attrDecided    = "countersign.decision.reason"
	attrPolicySet  = "countersign.decision.version"
	attrOutcome    = "countersign.outcome.status"
	attrOutcomeErr = "countersign.outcome.error"
	attrBytes      = "countersign.outcome.bytes"
	attrMicros     = "countersign.outcome.duration_us"
	attrDigest     = "countersign.digest"
	attrDetail     = "countersign.detail"
	attrPayload    = "countersign.payload." // and the payload's name
)
