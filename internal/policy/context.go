package policy

import (
	"maps"
	"slices"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// world is the entities of one decision: the agent and what is registered. It
// does not change.
type world struct {
	ts    *toolset
	agent Agent
	uid   types.EntityUID
	keys  []types.EntityUID // the agent and what it is in, each once
	self  types.Entity
}

// maxWorlds bounds how many agents an engine remembers.
const maxWorlds = 20_000

// worldOf returns the world of a, remembered from its last call if the agent
// is still described the same.
func (e *engine) worldOf(a *Agent) *world {
	if w, ok := e.worlds.Load(a.Name); ok {
		if w := w.(*world); w.agent.same(a) {
			return w
		}
	}
	w := newWorld(e.ts, a)
	if e.remembered.Add(1) > maxWorlds {
		e.worlds.Clear()
		e.remembered.Store(1)
	}
	e.worlds.Store(w.agent.Name, w)
	return w
}

func (a *Agent) same(b *Agent) bool {
	return a.Name == b.Name && a.Team == b.Team && a.Stage == b.Stage && a.Owner == b.Owner && maps.Equal(a.Labels, b.Labels)
}

func newWorld(ts *toolset, a *Agent) *world {
	w := &world{ts: ts, agent: *a, uid: types.NewEntityUID(typeAgent, types.String(a.Name))}
	w.agent.Labels = maps.Clone(a.Labels)
	w.keys = append(w.keys, w.uid)
	if a.Team != "" {
		w.keys = append(w.keys, types.NewEntityUID(typeTeam, types.String(a.Team)))
	}
	if a.Stage != "" {
		w.keys = append(w.keys, types.NewEntityUID(typeStage, types.String(a.Stage)))
	}
	tags := make(types.RecordMap, len(a.Labels))
	for k, v := range a.Labels {
		tags[types.String(k)] = types.String(v)
		for _, id := range [2]string{k, k + "=" + v} {
			if uid := types.NewEntityUID(typeLabel, types.String(id)); !slices.Contains(w.keys, uid) {
				w.keys = append(w.keys, uid)
			}
		}
	}
	w.self = types.Entity{
		UID: w.uid, Parents: types.NewEntityUIDSet(w.keys[1:]...), Tags: types.NewRecord(tags),
		Attributes: types.NewRecord(types.RecordMap{
			"name": types.String(a.Name), "team": types.String(a.Team), "stage": types.String(a.Stage), "owner": types.String(a.Owner),
		}),
	}
	return w
}

// Get implements types.EntityGetter.
func (w *world) Get(uid types.EntityUID) (types.Entity, bool) {
	if uid == w.uid {
		return w.self, true
	}
	e, ok := w.ts.entities[uid]
	return e, ok
}

// contextOf must agree with contextType. It builds only the parts in need: a
// record costs more than most policies.
func contextOf(req *Request, args types.Record, need parts) types.Record {
	m := make(types.RecordMap, 9)
	if need&needArgs != 0 {
		m["args"] = args
	}
	if need&needRun != 0 {
		age := int64(0)
		if !req.Run.Started.IsZero() {
			age = max(0, int64(req.Now.Sub(req.Run.Started).Seconds()))
		}
		m["run"] = types.NewRecord(types.RecordMap{
			"labels": stringSet(req.Run.Labels), "age_seconds": types.Long(age), "calls": types.Long(req.Run.Calls),
			"proposed": types.Boolean(req.Run.Proposed),
		})
	}
	if need&needCaller != 0 {
		m["caller"] = types.NewRecord(types.RecordMap{
			"remote": types.String(req.Caller.Remote), "credential": types.String(req.Caller.Credential),
		})
	}
	if need&needChain != 0 {
		m["on_behalf_of"] = stringSet(req.OnBehalfOf)
	}
	if need&needUser != 0 && req.User != nil {
		u := req.User
		m["user"] = types.NewRecord(types.RecordMap{
			"id": types.String(u.ID), "name": types.String(u.Name), "issuer": types.String(u.Issuer), "role": types.String(u.Role),
			"groups": stringSet(u.Groups), "teams": stringSet(u.Teams),
		})
	}
	if need&needProvenance != 0 {
		p := req.Provenance
		m["provenance"] = types.NewRecord(types.RecordMap{
			"untrusted": types.Boolean(p.Untrusted), "asked": types.Boolean(p.Asked), "external": types.Boolean(p.External),
			"endorsed": types.Boolean(p.Endorsed), "unendorsed": stringSet(p.Unendorsed),
			"by": stringSet(p.By), "confidential": types.Boolean(p.Confidential), "cleared": types.Boolean(p.Cleared),
		})
	}
	if need&needRelease != 0 {
		r := req.Release
		m["release"] = types.NewRecord(types.RecordMap{
			"number": types.Long(r.Number), "stage": types.String(r.Stage), "canary": types.Boolean(r.Canary), "pinned": types.Boolean(r.Number > 0),
		})
	}
	if need&needBudget != 0 {
		b := Budget{Left: 100}
		if req.Budget != nil {
			b = *req.Budget
		}
		m["budget"] = types.NewRecord(types.RecordMap{
			"left_percent": types.Long(b.Left), "limited": types.Boolean(b.Limited), "soft_passed": types.Boolean(b.Soft),
		})
	}
	if need&needNow != 0 {
		m["now"] = types.NewDatetime(req.Now)
	}
	return types.NewRecord(m)
}

// parts says which attributes of context a policy may ask for.
type parts uint16

const (
	needArgs parts = 1 << iota
	needRun
	needCaller
	needChain
	needNow
	needUser
	needProvenance
	needRelease
	needBudget
	needAll = needArgs | needRun | needCaller | needChain | needNow | needUser | needProvenance | needRelease | needBudget
)

var partNames = map[types.String]parts{"args": needArgs, "run": needRun, "caller": needCaller, "on_behalf_of": needChain, "now": needNow, "user": needUser, "provenance": needProvenance,
	"release": needRelease, "budget": needBudget}

// needsOf finds every use of context in r. A use that is not plainly one of
// its attributes needs all of it.
func needsOf(r *rule) parts {
	var need parts
	uses, plain := 0, 0
	inspect(r, func(n ast.IsNode) {
		switch v := n.(type) {
		case ast.NodeTypeVariable:
			if v.Name == "context" {
				uses++
			}
		case ast.NodeTypeAccess:
			if isContext(v.Arg) {
				plain++
				need |= partNames[v.Value]
			}
		case ast.NodeTypeHas:
			if isContext(v.Arg) {
				plain++
				need |= partNames[v.Value]
			}
		}
	})
	if uses != plain {
		return needAll
	}
	return need
}

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}

func needsOfAll(rules []*rule) parts {
	var need parts
	for _, r := range rules {
		need |= r.needs
	}
	return need
}

func stringSet(list []string) types.Set {
	values := make([]types.Value, len(list))
	for i, s := range list {
		values[i] = types.String(s)
	}
	return types.NewSet(values...)
}
