package console

import (
	"regexp"
	"strings"
)

// A policy's head and conditions in words, one by one: nothing is left out, put
// together or guessed. What has no words of its own stays Cedar.

var cedarWord = regexp.MustCompile(`context\.run\.labels\.contains\("((?:[^"\\]|\\.)*)"\)|context\.args\.([A-Za-z_]\w*)|([A-Z]\w*)::"((?:[^"\\]|\\.)*)"|"(?:[^"\\]|\\.)*"|>=|<=|==|!=|&&|\|\||[<>!{}]|\bprincipal in\b|\bprincipal\b|\blike\b`)

// operatorWords are the words of operators and names.
var operatorWords = map[string]string{">=": "is at least", "<=": "is at most", "==": "is", "!=": "is not", "&&": "and", "||": "or", ">": "is more than", "<": "is less than",
	"!": "not ", "{": "", "}": "", "principal": "the agent", "principal in": "the agent is in", "like": "is like"}

var effectWords = map[string]string{"effect:read": "anything that reads", "effect:write": "anything that writes", "effect:irreversible": "anything that cannot be undone",
	"kind:mcp": "any tool of an MCP server", "kind:llm": "any model", "kind:http": "any operation of an API", "kind:retrieval": "any search of documents"}

// inWords says Cedar's conditions in words.
func inWords(cedar string) string {
	out := cedarWord.ReplaceAllStringFunc(cedar, func(s string) string {
		m := cedarWord.FindStringSubmatch(s)
		switch {
		case strings.HasPrefix(s, "context.run"):
			return "the run carries " + m[1]
		case m[2] != "":
			return "the argument " + m[2]
		case m[3] != "":
			return entityWords(m[3], m[4])
		}
		if w, ok := operatorWords[s]; ok {
			return w
		}
		return s
	})
	return strings.TrimSpace(cedarSpace.ReplaceAllString(out, " "))
}

func entityWords(kind, name string) string {
	if kind == "Action" {
		if w := effectWords[name]; w != "" {
			return w
		}
		return name
	}
	return strings.ToLower(kind) + " " + name
}

// headWords says who may or may not call what: the parts of a policy's head
// after "principal" and "action".
func headWords(head string) (who, what string) {
	principal, action, _ := strings.Cut(head, "action")
	action, resource, _ := strings.Cut(action, "resource")
	scope := func(s, name, all string) string {
		s = strings.Trim(strings.TrimPrefix(strings.Trim(s, ", "), name), ", ")
		if s == "" {
			return all
		}
		s = strings.TrimSpace(strings.TrimPrefix(s, "=="))
		if in, ok := strings.CutPrefix(s, "in "); ok {
			s = in
		}
		return inWords(strings.ReplaceAll(strings.Trim(s, "[] "), `", `, `" or `))
	}
	what = scope(action, "action", "anything")
	if where := scope(resource, "resource", ""); where != "" {
		what += " of " + where
	}
	return scope(principal, "principal", "any agent"), what
}
