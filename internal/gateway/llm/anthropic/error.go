package anthropic

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
)

// Error returns an error in the shape that Anthropic's clients read. Their
// error types name the status; code, our own stable one, goes beside them.
func Error(status int, code, message string) []byte {
	type inner struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Code    string `json:"code,omitzero"`
	}
	b, err := json.Marshal(struct {
		Type  string `json:"type"`
		Error inner  `json:"error"`
	}{"error", inner{errorType(status), message, code}}, jsontext.AllowInvalidUTF8(true))
	if err != nil { // strings always marshal
		return []byte(`{"type":"error","error":{"type":"api_error","message":"internal error"}}`)
	}
	return b
}

func errorType(status int) string {
	switch status {
	case 401:
		return "authentication_error"
	case 403:
		return "permission_error"
	case 404, 405:
		return "not_found_error"
	case 413:
		return "request_too_large"
	case 429:
		return "rate_limit_error"
	case 503:
		return "overloaded_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

// ErrorEvent returns the server-sent event that ends a stream with an error.
func ErrorEvent(code, message string) []byte {
	return append(append([]byte("event: error\ndata: "), Error(502, code, message)...), "\n\n"...)
}
