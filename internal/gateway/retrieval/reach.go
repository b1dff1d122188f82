package retrieval

import (
	"cmp"
	"context"
	"encoding/json/v2"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/gateway"
	"github.com/countersign/countersign/internal/gateway/reach"
)

// reachPath is where calls of our own go that ask what a credential can reach. No
// front sends anything there, and Send looks that nobody called.
const reachPath = "/reach"

// teller is an engine that tells what a credential can reach in it.
type teller interface {
	told(ctx context.Context, j job, t *reach.Told) error
}

// Told asks the engine of a retrieval connection, in the name of by, what the
// connection's credential can reach. It implements reach.Engines.
func (d *Desk) Told(ctx context.Context, by audit.Actor, c connections.Connection) (reach.Told, error) {
	var t reach.Told
	a, err := d.o.Gateway.Reach(ctx, by, reach.Why, reach.CallOf(c, &gateway.Upstream{Method: http.MethodGet, Path: reachPath, Header: http.Header{}}))
	if err != nil {
		return t, reach.Fault(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, reach.MaxAnswer+1))
	if err != nil || len(b) > reach.MaxAnswer {
		return t, reach.ErrAsk.Say("what the engine tells could not be read to its end").With(err)
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, reach.ErrAsk.Say("what the engine tells could not be read; what is found in it may be replaced (countersign connection show)").With(err)
	}
	return t, nil
}

// tell makes the answer to a call that asks what the credential can reach.
func (d *Desk) tell(ctx context.Context, j job) (answer, error) {
	e, ok := d.engines[j.call.Connection.Dialect].(teller)
	if !ok || j.call.Who.Agent.Name != "" || j.call.Tool.Name != reach.CallName {
		return answer{}, gateway.ErrTransport
	}
	var t reach.Told
	if err := e.told(ctx, j, &t); err != nil {
		return answer{}, d.failed(j, err)
	}
	body, err := json.Marshal(t, json.FormatNilSliceAsNull(false))
	return answer{http.StatusOK, body}, err
}

func (e embedded) told(ctx context.Context, j job, t *reach.Told) error {
	docs, err := e.k.List(ctx, j.call.Connection.Name)
	if err != nil {
		return err
	}
	count := map[string]*int64{"": new(int64)}
	for _, d := range docs {
		if count[d.Collection] == nil {
			count[d.Collection] = new(int64)
		}
		*count[d.Collection]++
	}
	for name, n := range count {
		if name == "" && *n == 0 && len(count) > 1 {
			continue
		}
		t.Add(reach.Thing{Kind: reach.Collection, Name: cmp.Or(name, "(without a collection)"), Count: n, Rights: []string{"read"}, Open: true})
	}
	slices.SortFunc(t.Things, func(a, b reach.Thing) int { return cmp.Compare(a.Name, b.Name) })
	t.Identity = "Countersign itself: the documents are kept here, and no credential leads to them"
	return nil
}

func (searchAPI) told(_ context.Context, _ job, t *reach.Told) error {
	t.Unknowable("all of it: an API of search that is described by a mapping has no way to tell what its credential can reach")
	return nil
}

// tellFrom makes one request to the engine and returns its answer, whatever the status.
func tellFrom(ctx context.Context, g *gateway.Gateway, j job, method, path, query string) (int, []byte, error) {
	resp, err := g.Engine(ctx, j.receipt, j.call, &gateway.Upstream{Method: method, Path: path, Query: query, Header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, reach.MaxAnswer+1))
	switch {
	case ctx.Err() != nil:
		return 0, nil, gateway.ErrTimeout.With(ctx.Err())
	case err != nil:
		return 0, nil, gateway.ErrBroken.With(err)
	case len(b) > reach.MaxAnswer:
		return 0, nil, gateway.ErrAnswer
	}
	return resp.StatusCode, b, nil
}

func (e openSearch) told(ctx context.Context, j job, t *reach.Told) error {
	ctx, cancel := within(ctx, j.call.Connection)
	defer cancel()
	status, b, err := tellFrom(ctx, e.g, j, http.MethodGet, "/_cat/indices", "format=json&h=index,docs.count&expand_wildcards=open,hidden&s=index")
	if err != nil {
		return err
	}
	var list []struct {
		Index string `json:"index"`
		Count string `json:"docs.count"`
	}
	switch {
	case status != http.StatusOK:
		t.Unknowable("which indices there are: the engine does not list them for this credential")
		list = append(list, struct {
			Index string `json:"index"`
			Count string `json:"docs.count"`
		}{Index: j.call.Connection.Retrieval.Index})
	case json.Unmarshal(b, &list) != nil:
		return gateway.ErrAnswer
	}
	for _, x := range list {
		thing := reach.Thing{Kind: reach.Index, Name: x.Index, Open: x.Index == j.call.Connection.Retrieval.Index}
		if n, err := strconv.ParseInt(x.Count, 10, 64); err == nil {
			thing.Count = &n
		}
		t.Add(thing)
	}
	return e.privileges(ctx, j, t)
}

// privileges asks Elasticsearch, and if that is none the security plugin of
// OpenSearch, what the credential may do.
func (e openSearch) privileges(ctx context.Context, j job, t *reach.Told) error {
	status, b, err := tellFrom(ctx, e.g, j, http.MethodGet, "/_security/user/_privileges", "")
	if err != nil {
		return err
	}
	var has struct {
		Cluster []string `json:"cluster"`
		Indices []struct {
			Names      []string `json:"names"`
			Privileges []string `json:"privileges"`
		} `json:"indices"`
		RunAs []string `json:"run_as"`
	}
	if status == http.StatusOK && json.Unmarshal(b, &has) == nil {
		for _, c := range has.Cluster {
			t.Right(reach.Right{Name: "cluster: " + c, From: reach.Upstream, Write: !readsIndex(c)})
		}
		for _, r := range has.RunAs {
			t.Right(reach.Right{Name: "acts as " + r, From: reach.Upstream, Write: true})
		}
		for _, x := range has.Indices {
			for _, p := range x.Privileges {
				t.Right(reach.Right{Name: "indices " + strings.Join(x.Names, ", ") + ": " + p, From: reach.Upstream, Write: !readsIndex(p)})
			}
		}
		return nil
	}
	status, b, err = tellFrom(ctx, e.g, j, http.MethodGet, "/_plugins/_security/authinfo", "")
	if err != nil {
		return err
	}
	var who struct {
		User  string   `json:"user_name"`
		Roles []string `json:"roles"`
	}
	if status != http.StatusOK || json.Unmarshal(b, &who) != nil || who.User == "" {
		t.Unknowable("what the credential may do with the indices: the engine tells no privileges (it may have no security at all, and then anybody may do anything)")
		return nil
	}
	t.Identity = who.User
	for _, r := range who.Roles {
		t.Right(reach.Right{Name: "role " + r, From: reach.Upstream, Write: slices.Contains([]string{"all_access", "manage_snapshots", "security_manager"}, r)})
	}
	t.Unknowable("what its roles allow beyond those that OpenSearch brings: only who may read the engine's security settings sees that")
	return nil
}

// readsIndex reports whether a privilege of Elasticsearch changes nothing
// (https://www.elastic.co/guide/en/elasticsearch/reference/current/security-privileges.html).
func readsIndex(p string) bool {
	return strings.HasPrefix(p, "monitor") || strings.HasPrefix(p, "read") || slices.Contains([]string{"none", "view_index_metadata", "transport_client", "cancel_task"}, p)
}

// mostCounted is how many collections are asked for their number of points.
const mostCounted = 50

func (e qdrant) told(ctx context.Context, j job, t *reach.Told) error {
	ctx, cancel := within(ctx, j.call.Connection)
	defer cancel()
	mapped := j.call.Connection.Retrieval.Index
	status, b, err := tellFrom(ctx, e.g, j, http.MethodGet, "/collections", "")
	if err != nil {
		return err
	}
	var list struct {
		Result struct {
			Collections []struct {
				Name string `json:"name"`
			} `json:"collections"`
		} `json:"result"`
	}
	switch {
	case status != http.StatusOK: // a key for one collection
		t.Unknowable("which collections there are: the engine does not list them for this credential")
		t.Add(reach.Thing{Kind: reach.Collection, Name: mapped, Open: true})
	case json.Unmarshal(b, &list) != nil:
		return gateway.ErrAnswer
	}
	for _, c := range list.Result.Collections {
		t.Add(reach.Thing{Kind: reach.Collection, Name: c.Name, Open: c.Name == mapped})
	}
	slices.SortStableFunc(t.Things, func(a, b reach.Thing) int { return cmp.Compare(a.Name, b.Name) })
	for i := range t.Things[:min(len(t.Things), mostCounted)] {
		if err := e.counted(ctx, j, &t.Things[i]); err != nil {
			return err
		}
	}
	t.Unknowable("whether the key may write: Qdrant tells that only of keys that are JSON Web Tokens, by themselves")
	return nil
}

func (e qdrant) counted(ctx context.Context, j job, x *reach.Thing) error {
	path := "/collections/" + x.Name
	if gateway.CheckPath(path) != nil || strings.ContainsAny(x.Name, "/?#%\\") || x.Name == "" { // no name that a request could be made of
		return nil
	}
	status, b, err := tellFrom(ctx, e.g, j, http.MethodGet, path, "")
	if err != nil {
		return err
	}
	var c struct {
		Result struct {
			Points *int64 `json:"points_count"`
		} `json:"result"`
	}
	if status == http.StatusOK && json.Unmarshal(b, &c) == nil {
		x.Count = c.Result.Points
	}
	return nil
}
