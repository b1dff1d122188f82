package engines

import (
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Document is the source of a hit, or the payload of a point.
type Document map[string]any

// Server is a running engine.
type Server struct {
	URL string

	mu      sync.Mutex
	docs    map[string]Document
	lies    bool
	instead http.HandlerFunc
	asked   []string
}

// Start starts an engine over documents by their ids.
func Start(tb testing.TB, docs map[string]Document) *Server {
	tb.Helper()
	s := &Server{docs: docs}
	h := httptest.NewServer(s)
	s.URL = h.URL
	tb.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	return s
}

// Lie makes the engine answer with everything, whatever the filters say.
func (s *Server) Lie() { s.mu.Lock(); s.lies = true; s.mu.Unlock() }

// Instead answers every request by h from now on.
func (s *Server) Instead(h http.HandlerFunc) { s.mu.Lock(); s.instead = h; s.mu.Unlock() }

// Asked returns the requests so far, as METHOD PATH BODY.
func (s *Server) Asked() []string { s.mu.Lock(); defer s.mu.Unlock(); return slices.Clone(s.asked) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+r.URL.RequestURI()+" "+string(b))
	instead, lies := s.instead, s.lies
	s.mu.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	var q map[string]any
	if err := json.Unmarshal(b, &q); err != nil {
		http.Error(w, `{"error":"parsing_exception"}`, http.StatusBadRequest)
		return
	}
	var out any
	switch {
	case strings.HasSuffix(r.URL.Path, "/_search"):
		out = s.openSearch(q, lies)
	case strings.HasSuffix(r.URL.Path, "/points/scroll"), strings.HasSuffix(r.URL.Path, "/points/query"):
		out = s.qdrant(q, lies)
	case r.URL.Path == "/api/search":
		out = s.api(q, lies)
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.MarshalWrite(w, out, json.Deterministic(true)) // a client that left needs no answer
}

func (s *Server) ids() []string {
	var out []string
	for id := range s.docs {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (s *Server) openSearch(q map[string]any, lies bool) any {
	hits := []any{}
	for _, id := range s.ids() {
		if d := s.docs[id]; lies || osMatch(q["query"], id, d) {
			hits = append(hits, map[string]any{"_index": "docs", "_id": id, "_score": 1.5, "_source": d})
		}
	}
	return map[string]any{"took": 1, "timed_out": false, "hits": map[string]any{"total": map[string]any{"value": len(s.docs), "relation": "eq"}, "hits": hits}}
}

// osMatch evaluates the part of the query DSL that is asked for.
func osMatch(q any, id string, d Document) bool {
	m, _ := q.(map[string]any)
	for kind, v := range m {
		body, _ := v.(map[string]any)
		switch kind {
		case "bool":
			if !osBool(body, id, d) {
				return false
			}
		case "terms", "term", "match":
			for field, want := range body {
				if !osField(kind, d[field], want) {
					return false
				}
			}
		case "constant_score":
			if !osMatch(body["filter"], id, d) {
				return false
			}
		case "exists":
			if d[fmt.Sprint(body["field"])] == nil {
				return false
			}
		case "ids":
			if !slices.Contains(texts(body["values"]), id) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func osBool(b map[string]any, id string, d Document) bool {
	all := func(v any) []any { l, _ := v.([]any); return l }
	is := func(q any) bool { return osMatch(q, id, d) }
	if slices.ContainsFunc(all(b["filter"]), func(q any) bool { return !is(q) }) || slices.ContainsFunc(all(b["must_not"]), is) {
		return false
	}
	should, asked := b["should"]
	return !asked || slices.ContainsFunc(all(should), is)
}

func osField(kind string, have, want any) bool {
	switch kind {
	case "terms":
		return overlap(texts(have), texts(want))
	case "term":
		return slices.Contains(texts(have), fmt.Sprint(want))
	}
	q, _ := want.(map[string]any)
	return strings.Contains(strings.ToLower(fmt.Sprint(have)), strings.ToLower(fmt.Sprint(q["query"])))
}

func texts(v any) []string {
	list, ok := v.([]any)
	if !ok {
		if l, ok := v.([]string); ok {
			return l
		}
		if v == nil {
			return nil
		}
		return []string{fmt.Sprint(v)}
	}
	var out []string
	for _, x := range list {
		out = append(out, fmt.Sprint(x))
	}
	return out
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

func (s *Server) qdrant(q map[string]any, lies bool) any {
	points := []any{}
	for _, id := range s.ids() {
		if d := s.docs[id]; lies || qMatch(q["filter"], id, d) {
			points = append(points, map[string]any{"id": id, "version": 3, "score": 0.7, "payload": d})
		}
	}
	return map[string]any{"result": map[string]any{"points": points}, "status": "ok", "time": 0.001}
}

// qMatch evaluates a filter, or one condition of it.
func qMatch(f any, id string, d Document) bool {
	m, _ := f.(map[string]any)
	list := func(v any) []any { l, _ := v.([]any); return l }
	is := func(c any) bool { return qMatch(c, id, d) }
	if slices.ContainsFunc(list(m["must"]), func(c any) bool { return !is(c) }) {
		return false
	}
	if should, asked := m["should"]; asked && !slices.ContainsFunc(list(should), is) {
		return false
	}
	if ids, asked := m["has_id"]; asked && !slices.Contains(texts(ids), id) {
		return false
	}
	if empty, asked := m["is_empty"].(map[string]any); asked && len(texts(d[fmt.Sprint(empty["key"])])) > 0 {
		return false
	}
	match, asked := m["match"].(map[string]any)
	if !asked {
		return true
	}
	have := texts(d[fmt.Sprint(m["key"])])
	switch {
	case match["any"] != nil:
		return overlap(have, texts(match["any"]))
	case match["value"] != nil:
		return slices.Contains(have, fmt.Sprint(match["value"]))
	}
	return slices.ContainsFunc(have, func(s string) bool {
		return strings.Contains(strings.ToLower(s), strings.ToLower(fmt.Sprint(match["text"])))
	})
}

// api is an API of nobody in particular: {"q": …, "may": […]} finds items.
func (s *Server) api(q map[string]any, lies bool) any {
	items := []any{}
	for _, id := range s.ids() {
		d := s.docs[id]
		found := slices.ContainsFunc(strings.Fields(fmt.Sprint(q["q"])), func(w string) bool { return strings.Contains(strings.ToLower(fmt.Sprint(d["body"])), w) })
		if lies || found && overlap(texts(d["readers"]), texts(q["may"])) {
			items = append(items, map[string]any{"key": id, "doc": d})
		}
	}
	return map[string]any{"count": len(s.docs), "items": items}
}
