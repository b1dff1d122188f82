package console

import (
	"strings"

	"github.com/countersign/countersign/client"
)

var lockPages = []page{
	{"/locks", "locks", "Locks", "locks", (*Console).showLocks},
	{"/locks/{id}", "lock", "Lock", "locks", (*Console).showLock},
}

var lockActions = []action{
	{"/locks", "locks", (*Console).addLock},
	{"/locks/{id}/lift", "lock", (*Console).liftLock},
}

type locksPage struct {
	*listing[client.Lock]
	Kinds []string
	Ended bool
}

var lockKinds = []string{"agent", "owner", "team", "tool", "connection", "credential", "run", "everything"}

var lockColumns = []column[client.Lock]{
	{Key: "placed", Title: "Placed", Value: func(l client.Lock) string { return exact(l.Placed) }, Less: func(a, b client.Lock) int { return b.Placed.Compare(a.Placed) }},
	{Key: "on", Title: "On", Value: func(l client.Lock) string { return l.On() }},
	{Key: "state", Title: "State", Value: lockState},
	{Key: "by", Title: "By", Value: func(l client.Lock) string { return l.By }},
	{Key: "reason", Title: "Why", Value: func(l client.Lock) string { return l.Reason }},
	{Key: "expires", Title: "Until", Value: func(l client.Lock) string { return exact(l.Expires) }, Less: func(a, b client.Lock) int { return a.Expires.Compare(b.Expires) }},
	{Key: "id", Title: "Lock", Value: func(l client.Lock) string { return l.ID }},
}

func lockState(l client.Lock) string {
	if l.Ended.IsZero() {
		return "in force"
	}
	return "ended"
}

func (c *Console) showLocks(v *visit) (any, error) {
	ended := v.Query("ended") != ""
	found, err := v.API.Locks(v.ctx(), ended)
	return locksPage{arrange(v, found, func(l client.Lock) string { return l.ID }, lockColumns), lockKinds, ended}, err
}

func (c *Console) addLock(v *visit) (done, error) {
	f := v.Form
	spec := client.LockSpec{Kind: f.Get("kind"), Name: strings.TrimSpace(f.Get("name")), ExpiresIn: f.Get("expires_in")}
	if spec.Kind == "everything" && f.Get("sure") == "" {
		return done{}, &client.Error{Status: 422, Detail: "A lock on everything stops every call of every agent. Tick that you mean it."}
	}
	l, err := v.reason().AddLock(v.ctx(), spec)
	if err != nil {
		return done{}, err
	}
	return done{to: string(pathOf("/locks", l.ID)), said: v.inForce(l)}, nil
}

type lockPage struct {
	client.LockState
	State string
}

func (c *Console) showLock(v *visit) (any, error) {
	l, err := v.API.Lock(v.ctx(), v.Request.PathValue("id"))
	v.Title = "Lock on " + l.On()
	return lockPage{l, lockState(l.Lock)}, err
}

func (c *Console) liftLock(v *visit) (done, error) {
	l, err := v.reason().LiftLock(v.ctx(), v.Request.PathValue("id"))
	return done{to: "/locks", said: "The lock on " + l.On() + " is lifted."}, err
}
