package retrieval

import (
	"context"
	"encoding/json/v2"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/countersign/countersign/internal/connections/mapping"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/knowledge"
)

// maxEngine is how much of an engine's answer is read, in bytes.
const maxEngine = 16 << 20

// fetched is how many results an engine is asked for: more than an answer holds,
// as policy may hide some.
const fetched = 200

// speak makes one JSON request to the connection's engine. It reports false for
// 404.
func speak(ctx context.Context, g *gateway.Gateway, j job, made mapping.Made) ([]byte, bool, error) {
	ctx, cancel := within(ctx, j.call.Connection)
	defer cancel()
	header := http.Header{"Accept": {"application/json"}}
	up := &gateway.Upstream{Method: made.Method, Path: made.Path, Query: made.Query, Header: header}
	if made.Body != "" {
		header["Content-Type"] = []string{"application/json"}
		up.Body = []byte(made.Body)
	}
	resp, err := g.Engine(ctx, j.receipt, j.call, up)
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, gateway.ErrTimeout.With(err)
		}
		if _, known := errors.AsType[*fault.Error](err); known {
			return nil, false, err
		}
		return nil, false, gateway.ErrUpstream.Say("the connection's engine could not be asked").With(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxEngine+1))
	switch {
	case ctx.Err() != nil:
		return nil, false, gateway.ErrTimeout.With(ctx.Err())
	case err != nil:
		return nil, false, gateway.ErrBroken.With(err)
	case len(b) > maxEngine:
		return nil, false, gateway.ErrAnswer
	case resp.StatusCode == http.StatusNotFound:
		return nil, false, nil
	case resp.StatusCode != http.StatusOK:
		return nil, false, gateway.ErrUpstream.Say("the connection's engine refused what it was asked")
	}
	return b, true, nil
}

func made(method, path string, body any) (mapping.Made, error) {
	b, err := json.Marshal(body, json.Deterministic(true))
	return mapping.Made{Method: method, Path: path, Body: string(b)}, err
}

type object = map[string]any

// each hands the documents of an answer on until visit has enough.
func each(docs []mapping.Document, visit func(mapping.Document) bool) {
	for _, d := range docs {
		if !visit(d) {
			return
		}
	}
}

// find asks an engine and reads its answer.
func find(ctx context.Context, g *gateway.Gateway, j job, m mapping.Mapping, method, path string, body any, results string) ([]mapping.Document, error) {
	r, err := made(method, path, body)
	if err != nil {
		return nil, err
	}
	b, ok, err := speak(ctx, g, j, r)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, gateway.ErrUpstream.Say("the connection's engine has no such index or collection")
	}
	return m.Read(b, results)
}

// single returns the one document of that id: of two nobody knows which is meant.
func single(docs []mapping.Document, id string) (mapping.Document, bool) {
	docs = slices.DeleteFunc(docs, func(d mapping.Document) bool { return d.ID != id })
	if len(docs) != 1 {
		return mapping.Document{}, false
	}
	return docs[0], true
}

// openSearch is an index of OpenSearch or Elasticsearch.
type openSearch struct{ g *gateway.Gateway }

// hits reads fields beneath _source; the id is _id unless the mapping says else.
func hits(m mapping.Mapping) mapping.Mapping {
	if m.Fields.ID == "" {
		m.Fields.ID = "_id"
	} else {
		m.Fields.ID = "_source." + m.Fields.ID
	}
	return m.Beneath("_source.")
}

// visible is the filter for what may be read alone.
func (openSearch) visible(m mapping.Mapping, r rights) object {
	var should []any
	for _, f := range []struct {
		field string
		names []string
	}{{m.Fields.Readers, r.readers}, {m.Fields.Users, r.users}, {m.Fields.Groups, r.groups}} {
		if f.field != "" {
			should = append(should, object{"terms": object{f.field: append([]string{}, f.names...)}})
		}
	}
	if m.Unlisted == mapping.Everyone {
		none := []any{}
		for _, f := range []string{m.Fields.Readers, m.Fields.Users, m.Fields.Groups} {
			if f != "" {
				none = append(none, object{"exists": object{"field": f}})
			}
		}
		should = append(should, object{"bool": object{"must_not": none}})
	}
	return object{"bool": object{"should": should, "minimum_should_match": 1}}
}

func (e openSearch) search(ctx context.Context, j job, a ask, visit func(mapping.Document) bool) error {
	if a.vector != nil {
		return errVector
	}
	m := *j.call.Connection.Retrieval
	filter := []any{e.visible(m, j.rights)}
	for _, f := range [][2]string{{m.Fields.Owner, a.Filters.Owner}, {m.Fields.Classification, a.Filters.Classification}, {m.Fields.Source, a.Filters.Source}, {m.Fields.Collection, a.Filters.Collection}} {
		if f[0] != "" && f[1] != "" {
			filter = append(filter, object{"term": object{f[0]: f[1]}})
		}
	}
	// A word counts the same whatever it is: bm25 would weigh it by how many
	// documents have it, and those that may not be read are among them.
	var should []any
	for _, w := range knowledge.Words(a.Query) {
		for boost, field := range map[int]string{2: m.Fields.Title, 1: m.Fields.Text} {
			if field != "" {
				should = append(should, object{"constant_score": object{"filter": object{"match": object{field: object{"query": w}}}, "boost": boost}})
			}
		}
	}
	if len(should) == 0 {
		return nil
	}
	docs, err := find(ctx, e.g, j, hits(m), http.MethodPost, "/"+m.Index+"/_search", object{
		"size": fetched, "track_total_hits": false, "sort": []any{object{"_score": "desc"}, object{"_id": "asc"}},
		"query": object{"bool": object{"filter": filter, "should": should, "minimum_should_match": 1}},
	}, "hits.hits")
	if err == nil {
		each(docs, visit)
	}
	return err
}

func (e openSearch) get(ctx context.Context, j job, id string) (mapping.Document, bool, error) {
	m := *j.call.Connection.Retrieval
	named := object{"ids": object{"values": []string{id}}}
	if m.Fields.ID != "" {
		named = object{"term": object{m.Fields.ID: id}}
	}
	docs, err := find(ctx, e.g, j, hits(m), http.MethodPost, "/"+m.Index+"/_search", object{
		"size": 2, "track_total_hits": false, "query": object{"bool": object{"filter": []any{e.visible(m, j.rights), named}}},
	}, "hits.hits")
	d, ok := single(docs, id)
	return d, ok, err
}

// qdrant is a collection of Qdrant.
type qdrant struct{ g *gateway.Gateway }

func points(m mapping.Mapping) mapping.Mapping {
	if m.Fields.ID == "" {
		m.Fields.ID = "id"
	} else {
		m.Fields.ID = "payload." + m.Fields.ID
	}
	return m.Beneath("payload.")
}

func (qdrant) visible(m mapping.Mapping, r rights) object {
	var should []any
	for _, f := range []struct {
		field string
		names []string
	}{{m.Fields.Readers, r.readers}, {m.Fields.Users, r.users}, {m.Fields.Groups, r.groups}} {
		if f.field != "" && len(f.names) > 0 {
			should = append(should, object{"key": f.field, "match": object{"any": f.names}})
		}
	}
	if m.Unlisted == mapping.Everyone {
		empty := []any{}
		for _, f := range []string{m.Fields.Readers, m.Fields.Users, m.Fields.Groups} {
			if f != "" {
				empty = append(empty, object{"is_empty": object{"key": f}})
			}
		}
		should = append(should, object{"must": empty})
	}
	return object{"should": should}
}

func (e qdrant) filter(m mapping.Mapping, r rights, f filters) []any {
	must := []any{e.visible(m, r)}
	for _, x := range [][2]string{{m.Fields.Owner, f.Owner}, {m.Fields.Classification, f.Classification}, {m.Fields.Source, f.Source}, {m.Fields.Collection, f.Collection}} {
		if x[0] != "" && x[1] != "" {
			must = append(must, object{"key": x[0], "match": object{"value": x[1]}})
		}
	}
	return must
}

func (e qdrant) search(ctx context.Context, j job, a ask, visit func(mapping.Document) bool) error {
	m := *j.call.Connection.Retrieval
	must := e.filter(m, j.rights, a.Filters)
	at := "/collections/" + m.Index + "/points"
	if a.vector != nil {
		body := object{"query": a.vector, "filter": object{"must": must}, "limit": fetched, "with_payload": true, "params": object{"exact": true}}
		if m.Vector != "" {
			body["using"] = m.Vector
		}
		docs, err := find(ctx, e.g, j, points(m), http.MethodPost, at+"/query", body, "result.points")
		if err == nil {
			each(docs, visit)
		}
		return err
	}
	// Without a vector, words are a filter, and the order is that of the ids.
	var words []any
	for _, w := range knowledge.Words(a.Query) {
		for _, field := range []string{m.Fields.Title, m.Fields.Text} {
			if field != "" {
				words = append(words, object{"key": field, "match": object{"text": w}})
			}
		}
	}
	if len(words) == 0 {
		return nil
	}
	docs, err := find(ctx, e.g, j, points(m), http.MethodPost, at+"/scroll",
		object{"filter": object{"must": append(must, object{"should": words})}, "limit": fetched, "with_payload": true, "with_vector": false}, "result.points")
	if err == nil {
		each(docs, visit)
	}
	return err
}

func (e qdrant) get(ctx context.Context, j job, id string) (mapping.Document, bool, error) {
	m := *j.call.Connection.Retrieval
	must := e.filter(m, j.rights, filters{})
	if m.Fields.ID != "" {
		must = append(must, object{"key": m.Fields.ID, "match": object{"value": id}})
	} else {
		must = append(must, object{"has_id": []any{pointID(id)}})
	}
	docs, err := find(ctx, e.g, j, points(m), http.MethodPost, "/collections/"+m.Index+"/points/scroll",
		object{"filter": object{"must": must}, "limit": 2, "with_payload": true, "with_vector": false}, "result.points")
	d, ok := single(docs, id)
	return d, ok, err
}

// pointID is an id as Qdrant has it: a number or a UUID.
func pointID(id string) any {
	var n uint64
	if json.Unmarshal([]byte(id), &n) == nil {
		return n
	}
	return id
}

// searchAPI is any API that searches, as a mapping says.
type searchAPI struct{ g *gateway.Gateway }

func (e searchAPI) search(ctx context.Context, j job, a ask, visit func(mapping.Document) bool) error {
	if a.vector != nil {
		return errVector
	}
	m := *j.call.Connection.Retrieval
	words := ""
	for i, w := range knowledge.Words(a.Query) {
		if i > 0 {
			words += " "
		}
		words += w
	}
	r, err := m.Search.Make(mapping.Values{"query": a.Query, "words": words, "limit": fetched,
		"readers": j.rights.readers, "users": append([]string{}, j.rights.users...), "groups": append([]string{}, j.rights.groups...)})
	if err != nil {
		return err
	}
	b, ok, err := speak(ctx, e.g, j, r)
	if err != nil {
		return err
	}
	if !ok {
		return gateway.ErrUpstream.Say("the connection's engine has nothing to search at the path of its mapping")
	}
	docs, err := m.Read(b, m.Search.Results)
	if err == nil {
		each(docs, visit)
	}
	return err
}

func (e searchAPI) get(ctx context.Context, j job, id string) (mapping.Document, bool, error) {
	m := *j.call.Connection.Retrieval
	if m.Get == nil {
		return mapping.Document{}, false, errNotFound.Say("this connection can be searched, but gives no single documents")
	}
	r, err := m.Get.Make(mapping.Values{"id": id})
	if err != nil {
		return mapping.Document{}, false, err
	}
	if gateway.CheckPath(r.Path) != nil { // no segment of a path: no document has such an id
		return mapping.Document{}, false, nil
	}
	b, ok, err := speak(ctx, e.g, j, r)
	if err != nil || !ok {
		return mapping.Document{}, false, err
	}
	docs, err := m.Read(b, m.Get.Results)
	d, ok := single(docs, id)
	return d, ok, err
}
