package openai

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
)

// Error returns an error in the shape that OpenAI's clients read.
func Error(status int, code, message string) []byte {
	kind := "invalid_request_error"
	switch {
	case status == 401:
		kind = "authentication_error"
	case status == 403:
		kind = "permission_error"
	case status == 429:
		kind = "rate_limit_error"
	case status >= 500:
		kind = "server_error"
	}
	type inner struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	return marshal(struct {
		Error inner `json:"error"`
	}{inner{message, kind, nil, code}})
}

// ErrorEvent returns the server-sent event that ends a stream of e with an error.
func ErrorEvent(e Endpoint, code, message string) []byte {
	if e != Responses {
		return append(append([]byte("data: "), Error(502, code, message)...), "\n\n"...)
	}
	b := marshal(struct {
		Type     string  `json:"type"`
		Code     string  `json:"code"`
		Message  string  `json:"message"`
		Param    *string `json:"param"`
		Sequence int     `json:"sequence_number"`
	}{"error", code, message, nil, 0})
	return append(append([]byte("event: error\ndata: "), b...), "\n\n"...)
}

// marshal writes a struct of strings, which cannot fail.
func marshal(v any) []byte {
	b, err := json.Marshal(v, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return []byte(`{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal"}}`)
	}
	return b
}
