package model

import (
	"net/http"
	"strings"
)

// listed are the models that each dialect's list shows. Newer or older names of
// the same families are accepted too: which of them an agent may use is the
// business of policy, not of this provider.
var listed = map[dialect][]string{
	openAI:    {"gpt-5", "gpt-5-mini", "gpt-4o-mini", "text-embedding-3-small", "text-embedding-3-large"},
	anthropic: {"claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5"},
}

var families = map[dialect][]string{
	openAI:    {"gpt-", "o1", "o3", "o4", "text-embedding-"},
	anthropic: {"claude-"},
}

func offers(d dialect, model string) bool {
	for _, prefix := range families[d] {
		if strings.HasPrefix(model, prefix) {
			return true
		}
	}
	return false
}

const releasedUnix, released = 1767225600, "2026-01-01T00:00:00Z"

func (x *exchange) modelObject(id string) obj {
	if x.dialect == anthropic {
		return obj{"type": "model", "id": id, "display_name": id, "created_at": released, "max_input_tokens": 200_000, "max_tokens": 64_000}
	}
	return obj{"object": "model", "id": id, "created": releasedUnix, "owned_by": "scripted"}
}

func (x *exchange) listModels() {
	data := []obj{}
	names := listed[x.dialect]
	for _, id := range names {
		data = append(data, x.modelObject(id))
	}
	if x.dialect == anthropic {
		writeJSON(x.w, http.StatusOK, obj{"data": data, "has_more": false, "first_id": names[0], "last_id": names[len(names)-1]})
		return
	}
	writeJSON(x.w, http.StatusOK, obj{"object": "list", "data": data})
}

func (x *exchange) getModel() {
	id := strings.TrimPrefix(x.r.URL.Path, "/v1/models/")
	if _, test, err := parseKnobs(id); err != nil || (!test && !offers(x.dialect, id)) {
		x.fail(http.StatusNotFound, "the model \""+id+"\" does not exist")
		return
	}
	writeJSON(x.w, http.StatusOK, x.modelObject(id))
}
