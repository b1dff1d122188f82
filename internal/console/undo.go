package console

import (
	"fmt"
	"strconv"

	"github.com/countersign/countersign/client"
)

var undoPages = []page{
	{"/undos", "undos", "Undone", "runs", (*Console).showUndos},
	{"/undo", "undoplan", "Undo", "runs", (*Console).showUndoPlan},
	{"/undos/{id}", "undo", "Undo", "runs", (*Console).showUndo},
}

var undoActions = []action{
	{"/undo", "undoplan", (*Console).beginUndo},
	{"/undos/{id}/settle", "undo", (*Console).settleUndo},
}

var undoColumns = []column[client.Undo]{
	{Key: "created", Title: "Begun", Value: func(u client.Undo) string { return exact(u.Created) }, Less: func(a, b client.Undo) int { return b.Created.Compare(a.Created) }},
	{Key: "object", Title: "What", Value: func(u client.Undo) string { return u.Object }},
	{Key: "state", Title: "State", Value: func(u client.Undo) string { return u.State }},
	{Key: "by", Title: "By", Value: func(u client.Undo) string { return u.By }},
	{Key: "reason", Title: "Why", Value: func(u client.Undo) string { return u.Reason }},
	{Key: "id", Title: "Undo", Value: func(u client.Undo) string { return u.ID }},
}

func (c *Console) showUndos(v *visit) (any, error) {
	all, err := v.API.Undos(v.ctx())
	return arrange(v, all, func(u client.Undo) string { return u.ID }, undoColumns), err
}

// undoPlanPage is how a call or a run would be undone. Nothing has happened.
type undoPlanPage struct {
	client.UndoPlan
	What   client.UndoWhat
	Able   int // steps that would be made
	Agents []client.Agent
}

// undoWhat is what is to be undone, of the form if one was sent.
func (v *visit) undoWhat() client.UndoWhat {
	get := v.Query
	if v.Form != nil {
		get = v.Form.Get
	}
	return client.UndoWhat{Call: get("call"), Run: get("run"), As: get("as")}
}

func (c *Console) showUndoPlan(v *visit) (any, error) {
	d := undoPlanPage{What: v.undoWhat()}
	var err error
	if d.UndoPlan, err = v.API.PlanUndo(v.ctx(), d.What); err != nil {
		return nil, err
	}
	for _, s := range d.Steps {
		if s.State == "planned" {
			d.Able++
		}
	}
	d.Agents, err = v.API.Agents(v.ctx())
	return d, err
}

// beginUndo carries out the plan that the person looked at, and no other.
func (c *Console) beginUndo(v *visit) (done, error) {
	u, err := v.reason().BeginUndo(v.ctx(), v.undoWhat(), v.Form.Get("digest"))
	return done{to: string(pathOf("/undos", u.ID)), said: "It is being undone. This page follows it; you may leave it."}, err
}

// undoPage is a plan that is carried out.
type undoPage struct {
	client.Undo
	Settled int // steps that are done or cannot be
}

// Doubtful reports whether a person has to say what became of a step.
func (undoPage) Doubtful(s client.UndoStep) bool { return s.State == "failed" || s.State == "unknown" }

// Percent is how much of it is settled.
func (d undoPage) Percent() int { return 100 * d.Settled / max(1, len(d.Steps)) }

func (c *Console) showUndo(v *visit) (any, error) {
	u, err := v.API.Undo(v.ctx(), v.Request.PathValue("id"))
	d := undoPage{Undo: u}
	for _, s := range u.Steps {
		if s.State == "done" || s.State == "cannot" {
			d.Settled++
		}
	}
	v.Title = "Undo of " + u.Object
	return d, err
}

func (c *Console) settleUndo(v *visit) (done, error) {
	id := v.Request.PathValue("id")
	n, err := strconv.Atoi(v.Form.Get("step"))
	if err != nil {
		return done{}, &client.Error{Status: 422, Detail: "Say which step."}
	}
	var did, again []int
	said := fmt.Sprintf("Step %d is settled as done; the rest goes on.", n)
	if v.Form.Get("verdict") == "again" {
		again, said = []int{n}, fmt.Sprintf("Step %d is made again.", n)
	} else {
		did = []int{n}
	}
	_, err = v.reason().SettleUndo(v.ctx(), id, did, again)
	return done{to: string(pathOf("/undos", id)), said: said}, err
}
