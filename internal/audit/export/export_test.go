package export

// Conventions are the names that published conventions must hold.
var Conventions = []string{
	attrServiceName, attrServiceVersion, attrErrorType, attrUserAgent, attrClientAddress, attrHTTPStatus, attrRPCStatus, attrUserID, attrUserName,
	attrOperation, attrProvider, attrAgentID, attrAgentName, attrConversation, attrRequestModel, attrResponseModel, attrInputTokens, attrOutputTokens,
	attrCachedTokens, attrToolName, attrToolType, attrToolCallID, attrToolArguments, attrToolResult, attrMCPMethod,
}

// SchemaURL is the schema that they are of.
const SchemaURL = schemaURL

// Operations are the values of gen_ai.operation.name that the conventions define.
var Operations = []string{operationChat, operationEmbed, operationTool, operationRetrieval}

// Providers are the values of gen_ai.provider.name.
var Providers = []string{providerOpenAI, providerAnthropic}
